"""Speech that goes on: prompts in, tokens out chunk by chunk, and sound while they come.

A prompt is an utterance from its beginning, as in training. One that ends within a chunk loses
nothing: tokens of a chunk are predicted independently of one another, so the rest of that chunk is
drawn as if all of it were, and the prompt's own tokens put in their places, which is exact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm.config import LMError
from lm.inference import PackedLM
from lm.model import SpeechLM
from tokenizer.audio.frames import SAMPLES_PER_FRAME
from tokenizer.stream import SpeechStream
from tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn.

    temperature: logits are divided by it; 0 takes the likeliest. top_k: of so many likeliest alone.
    top_p: of the likeliest that together have this chance, the one that passes it included. Both
    together: of the tokens that both leave. Defaults are those of WavSLM's code. Raises LMError for
    what cannot be.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = 0.3

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise LMError(f"a temperature of {self.temperature} is not zero or over")
        if self.top_k is not None and self.top_k < 1:
            raise LMError(f"a top_k of {self.top_k} is not over zero")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise LMError(f"a top_p of {self.top_p} is not over 0 and up to 1")

    def draw(self, logits: Tensor, generators: list[torch.Generator]) -> Tensor:
        """(B, chunk, K) fp32 → (B, chunk) tokens. generators: one of each row, on the CPU."""
        if self.temperature == 0:
            return logits.argmax(-1).cpu()
        order, logits = None, logits.cpu() / self.temperature
        if self.top_k is not None:
            logits, order = logits.topk(min(self.top_k, logits.shape[-1]))
        elif self.top_p is not None and self.top_p < 1:
            logits, order = logits.sort(dim=-1, descending=True)
        reached = torch.softmax(logits.double(), -1).cumsum(-1)
        left = reached[..., -1:]
        if self.top_p is not None and order is not None:
            # The chance of those up to the first that reaches top_p.
            place = (reached < self.top_p * left).sum(-1, keepdim=True)
            left = reached.gather(-1, place.clamp(max=reached.shape[-1] - 1))
        shape = reached.shape[1:-1]
        drawn = torch.stack([torch.rand(shape, generator=own).double() for own in generators])
        place = torch.searchsorted(reached, drawn.unsqueeze(-1) * left, right=True)
        place = place.clamp(max=reached.shape[-1] - 1)
        return (place if order is None else order.gather(-1, place))[..., 0]


class Generator:
    """A language model that speaks on.

    >>> model, files = read_lm("out/lm/model", precision="bf16")
    >>> generator = Generator(model)
    >>> (tokens,) = generator.generate([prompt], count=500, seeds=[0])
    """

    def __init__(self, model: SpeechLM) -> None:
        """Packs the weights; the model itself is not needed any more."""
        self.lm = PackedLM(model)
        self.config = model.config

    def generate(
        self,
        prompts: list[np.ndarray],
        count: int,
        seeds: list[int],
        sampling: Sampling | None = None,
        show: Callable[[int], object] | None = None,
    ) -> list[np.ndarray]:
        """`count` tokens that follow each prompt, (count,) int64. Else as `chunks`.

        show: called with how many of `count` every row has got with each chunk.
        """
        rows, done = [np.empty(0, np.int64) for _ in prompts], 0
        stream = self.chunks(prompts, seeds, sampling)
        while done < count:
            rows = [np.concatenate([row, own]) for row, own in zip(rows, next(stream))]
            before, done = done, min(count, *map(len, rows))
            if show:
                show(done - before)
        return [row[:count] for row in rows]

    def chunks(
        self, prompts: list[np.ndarray], seeds: list[int], sampling: Sampling | None = None
    ) -> Iterator[list[np.ndarray]]:
        """Tokens that follow each prompt, a chunk at a time and without end.

        prompts: (T,) integers each, at least one, of any lengths up to the model's window; of T = 0
        an utterance begins. seeds: of each; a row's tokens depend on its own prompt and seed, not
        on the other rows beyond rounding. Each step gives (chunk,) int64 of each row, the first
        one fewer where a prompt ended within a chunk. Raises LMError, before the first, for a
        prompt longer than the window or of what are no codes.
        """
        for prompt in prompts:
            self.check(prompt)
        return self._chunks(prompts, seeds, sampling or Sampling())

    def _chunks(
        self, prompts: list[np.ndarray], seeds: list[int], sampling: Sampling
    ) -> Iterator[list[np.ndarray]]:
        chunk = self.config.chunk
        rows = [torch.from_numpy(np.asarray(own).astype(np.int64)) for own in prompts]
        whole = [len(own) // chunk * chunk for own in rows]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        logits, state = self.lm.begin([own[:end] for own, end in zip(rows, whole)])
        said = [len(own) - end for own, end in zip(rows, whole)]
        while True:
            tokens = sampling.draw(logits, generators)
            for row, (own, known) in enumerate(zip(rows, said)):
                if known:
                    tokens[row, :known] = own[-known:]
            yield [own[known:].numpy() for own, known in zip(tokens, said)]
            said = [0] * len(rows)
            logits = self.lm.step(tokens, state)

    def check(self, prompt: np.ndarray) -> None:
        """Raises LMError for a prompt that is longer than the window, or of what are no codes."""
        own, size, window = np.asarray(prompt), self.config.codebook_size, self.config.window
        if own.ndim != 1 or own.dtype.kind not in "iu":
            raise LMError(f"its tokens are {own.dtype} of shape {own.shape}; integers, (T,)")
        if len(own) and not 0 <= own.min() <= own.max() < size:
            wrong = own.min() if own.min() < 0 else own.max()
            raise LMError(f"it has a token {wrong}, and the model knows 0 to {size - 1}")
        if len(own) > window:
            raise LMError(f"it has {len(own)} tokens, and the model looks back on {window}")

    def speak(
        self,
        tokenizer: Tokenizer,
        prompt: np.ndarray,
        count: int,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> Iterator[np.ndarray]:
        """The sound of `count` tokens that follow a prompt, float32 at 16 kHz, while they come.

        With a causal decompressor and vocoder, a step of 4 tokens at 50 a second gives 80 ms; what
        the vocoder's windows overlap comes with the last. Else all comes at the end. All together
        are what decode() gives of prompt and continuation, from the prompt's end on. Raises
        LMError as `chunks`, and without a vocoder.
        """
        self.check(prompt)
        if tokenizer.decoding.vocoder is None:
            raise LMError("the tokenizer has no vocoder: train one with jobs/train_vocoder.py")
        return self._speak(tokenizer, np.asarray(prompt), count, seed, sampling)

    def _speak(self, tokenizer, prompt, count, seed, sampling) -> Iterator[np.ndarray]:
        begin = len(prompt) * tokenizer.frames_per_token * SAMPLES_PER_FRAME
        chunks = self._exactly(count, prompt, seed, sampling)
        if not streams(tokenizer):
            yield tokenizer.decode(np.concatenate([prompt.astype(np.int64), *chunks]))[begin:]
            return
        stream = tokenizer.speech_stream()
        heard = len(stream.push(prompt))
        for wave in sounds(stream, chunks):
            heard += len(wave)
            if heard > begin:
                yield wave[max(0, len(wave) - (heard - begin)) :]

    def _exactly(self, count, prompt, seed, sampling) -> Iterator[np.ndarray]:
        for (own,) in self.chunks([prompt], [seed], sampling):
            if len(own) >= count:
                yield own[:count]
                return
            yield own
            count -= len(own)


def sounds(stream: SpeechStream, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """What a stream says of each chunk of tokens, and at their end."""
    for tokens in chunks:
        yield stream.push(tokens)
    yield stream.finish()


def streams(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer with a vocoder gives sound while tokens come."""
    decoding = tokenizer.decoding
    compression = decoding.compression
    causal = compression is None or compression.decompressor.config.causal
    return causal and decoding.vocoder.config.causal
