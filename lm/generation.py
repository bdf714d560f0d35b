"""Generation: prompts → the tokens that follow, chunk by chunk, and speech while they come.

A prompt starts where an utterance starts, as in training, and may be of any length. All of it goes
through the model: layers of sliding windows look back further than one window. It may end within a
chunk: the tokens of a chunk are predicted independently of one another, so the whole chunk is drawn
and the prompt's tokens are put in their places, which is exact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import dropwhile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm.config import LMConfig, LMError
from lm.inference import PackedLM, RowsState
from lm.model import SpeechLM
from tokenizer.stream import SpeechStream
from tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn. Defaults are those of WavSLM's code.

    temperature: divides the logits; 0 takes the most likely token. top_k: keeps the k most likely
    tokens. top_p: keeps the most likely tokens up to the one with which their probability reaches
    p. With both, a token must pass both. Raises LMError for a value out of range.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise LMError(f"a temperature of {self.temperature} is below zero or infinite")
        if self.top_k is not None and self.top_k < 1:
            raise LMError(f"a top_k of {self.top_k} is below one")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise LMError(f"a top_p of {self.top_p} is not above zero and at most one")

    def draw(self, logits: Tensor, generators: list[torch.Generator]) -> Tensor:
        """(B, chunk, K) fp32 → (B, chunk) int64 tokens, on the device of the logits.

        generators: one for each row, on the CPU, so that a seed means the same on every device.
        """
        if self.temperature == 0:
            return logits.argmax(-1)
        order, logits = None, logits / self.temperature
        if self.top_k is not None:
            logits, order = logits.topk(min(self.top_k, logits.shape[-1]))
        elif self.top_p is not None and self.top_p < 1:
            logits, order = logits.sort(dim=-1, descending=True)
        cumulative = torch.softmax(logits.double(), -1).cumsum(-1)
        last = cumulative.shape[-1] - 1
        total = cumulative[..., -1:]
        if self.top_p is not None and order is not None:
            # The probability up to and with the first token that reaches top_p.
            index = (cumulative < self.top_p * total).sum(-1, keepdim=True)
            total = cumulative.gather(-1, index.clamp(max=last))
        shape = cumulative.shape[1:-1]
        uniform = torch.stack([torch.rand(shape, generator=g).double() for g in generators])
        uniform = uniform.to(logits.device, non_blocking=True)
        index = torch.searchsorted(cumulative, uniform.unsqueeze(-1) * total, right=True)
        index = index.clamp(max=last)
        return (index if order is None else order.gather(-1, index))[..., 0]


class Prefilled(NamedTuple):
    """Prompts that have gone through the model, for one continuation.

    begun: of each row, the tokens of the chunk in which its prompt ends, perhaps none. logits:
    (B, chunk, K) of that chunk. state: of the rows, which a step changes in place.
    """

    begun: list[Tensor]
    logits: Tensor
    state: RowsState


class Generator:
    """Continues prompts with a language model.

    >>> model, files = read_lm("out/lm/model", precision="bf16")
    >>> generator = Generator(model)
    >>> (tokens,) = generator.generate([prompt], count=500, seeds=[0])
    """

    def __init__(self, model: SpeechLM) -> None:
        """Packs a copy of the weights; the model itself is not needed afterwards."""
        self.lm = PackedLM(model)
        self.config: LMConfig = model.config

    def generate(
        self,
        prompts: list[np.ndarray],
        count: int,
        seeds: list[int],
        *,
        sampling: Sampling | None = None,
        show: Callable[[int], object] | None = None,
    ) -> list[np.ndarray]:
        """The `count` tokens that follow each prompt, (count,) int64. Otherwise as `chunks`.

        show: called after each chunk with the number of tokens that every row has got by it.
        """
        rows, done = [np.empty(0, np.int64) for _ in prompts], 0
        stream = self.chunks(prompts, seeds, sampling=sampling)
        while done < count:
            rows = [np.concatenate([row, chunk]) for row, chunk in zip(rows, next(stream))]
            before, done = done, min(count, *map(len, rows))
            if show:
                show(done - before)
        return [row[:count] for row in rows]

    def chunks(
        self,
        prompts: list[np.ndarray],
        seeds: list[int],
        *,
        sampling: Sampling | None = None,
        prefilled: Prefilled | None = None,
    ) -> Iterator[list[np.ndarray]]:
        """The tokens that follow each prompt, one chunk at a time, without end.

        prompts: at least one; (T,) integers each, of any lengths. With T = 0 an utterance starts
        from nothing; a model without START needs a chunk. seeds: one for each; the tokens of a row
        depend on its prompt and seed, and on the other rows by rounding only. Each step gives
        (chunk,) int64 for each row; the first step gives fewer where a prompt ends within a chunk.
        prefilled: of these prompts; it is used up. Raises LMError, before the first step, as
        `check`.
        """
        for prompt in prompts:
            self.check(prompt)
        return self._chunks(prompts, seeds, sampling or Sampling(), prefilled=prefilled)

    def prefill(self, prompt: np.ndarray) -> Prefilled:
        """Take one prompt through the model, before it is known how to go on. Raises as `check`."""
        self.check(prompt)
        return self._prefill([prompt])

    def _prefill(self, prompts: list[np.ndarray]) -> Prefilled:
        rows = [torch.from_numpy(np.asarray(prompt).astype(np.int64)) for prompt in prompts]
        whole = [len(row) - len(row) % self.config.chunk for row in rows]
        logits, state = self.lm.begin([row[:n] for row, n in zip(rows, whole)])
        return Prefilled([row[n:] for row, n in zip(rows, whole)], logits, state)

    def _chunks(
        self,
        prompts: list[np.ndarray],
        seeds: list[int],
        sampling: Sampling,
        prefilled: Prefilled | None,
    ) -> Iterator[list[np.ndarray]]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        begun, logits, state = prefilled or self._prefill(prompts)
        known = [len(row) for row in begun]
        while True:
            tokens = sampling.draw(logits, generators)
            for drawn, row, n in zip(tokens, begun, known):
                if n:
                    drawn[:n] = row.to(tokens.device)
            yield [drawn[n:] for drawn, n in zip(tokens.cpu().numpy(), known)]
            known = [0] * len(begun)
            logits = self.lm.step(tokens, state)

    def check(self, prompt: np.ndarray) -> None:
        """Raises LMError for a prompt with other values than codes, or too short for the model."""
        tokens, size = np.asarray(prompt), self.config.codebook_size
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            problem = f"its tokens are {tokens.dtype} of shape {tokens.shape}"
            raise LMError(problem, "give integers of shape (T,)")
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < size:
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise LMError(
                f"it has a token {wrong}, and the model's are 0 to {size - 1}",
                "give tokens of the model's own tokenizer",
            )
        if len(tokens) < self.config.unscored_tokens:
            raise LMError(
                f"it has {len(tokens)} tokens, and the model has no START: it continues "
                f"{self.config.chunk} or more",
                "give a longer prompt",
            )

    def speak(
        self,
        tokenizer: Tokenizer,
        prompt: np.ndarray,
        count: int,
        *,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> Iterator[np.ndarray]:
        """The speech of the `count` tokens that follow a prompt, in pieces, while they come.

        Pieces are (n,) float32 at the tokenizer's output_sample_rate. Together they are what
        decode() gives of prompt and continuation, from the prompt's end on. With a causal
        decompressor and vocoder each chunk gives a piece: 80 ms for 4 tokens at 50 a second. The
        overlap of the windows of an inverse STFT comes with the last piece. Without a causal form
        all speech is one piece at the end. Raises LMError as `chunks`, and UsageError for a
        tokenizer without a vocoder.
        """
        self.check(prompt)
        decoding = tokenizer.needed_decoding()
        decoding.needed_vocoder()
        tokens = self.first_tokens(prompt, count, seed=seed, sampling=sampling)
        pieces = _pieces(tokenizer, np.asarray(prompt), tokens)
        return dropwhile(lambda piece: not len(piece), pieces)

    def first_tokens(
        self,
        prompt: np.ndarray,
        count: int,
        *,
        seed: int,
        sampling: Sampling | None = None,
        prefilled: Prefilled | None = None,
    ) -> Iterator[np.ndarray]:
        """The `count` tokens that follow one prompt, a chunk at a time. Raises as `chunks`.

        prefilled: of this prompt, by `prefill`; it is used up.
        """
        chunks = self.chunks([prompt], [seed], sampling=sampling, prefilled=prefilled)
        return _first(chunks, count)


class Speaking:
    """The sound of tokens that follow a prompt, piece by piece where the decoder is causal.

    Pieces are (n,) float32 at the tokenizer's output_sample_rate; without a vocoder all are empty.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: np.ndarray) -> None:
        """prompt: (T,) tokens before them, perhaps none, whose own sound is left out."""
        decoding = tokenizer.needed_decoding()
        self.tokenizer, self.kept = tokenizer, [prompt.astype(np.int64)]
        # Samples of the prompt that are still to come out of the decoder.
        self.skip = len(prompt) * decoding.samples_per_token
        self.stream: SpeechStream | None = None
        if decoding.is_causal:
            self.stream = tokenizer.speech_stream()
            self._after_prompt(self.stream.push(self.kept[0]))

    def push(self, tokens: np.ndarray) -> np.ndarray:
        """The next (t,) tokens → the samples that are final now."""
        if self.stream is not None:
            return self._after_prompt(self.stream.push(tokens))
        self.kept.append(tokens.astype(np.int64))
        return np.empty(0, np.float32)

    def finish(self) -> np.ndarray:
        """The remaining samples."""
        if self.stream is not None:
            return self._after_prompt(self.stream.finish())
        if self.tokenizer.vocoder is None:
            return np.empty(0, np.float32)
        return self._after_prompt(self.tokenizer.decode(np.concatenate(self.kept)))

    def _after_prompt(self, samples: np.ndarray) -> np.ndarray:
        skipped = min(self.skip, len(samples))
        self.skip -= skipped
        return samples[skipped:]


def _first(chunks: Iterator[list[np.ndarray]], count: int) -> Iterator[np.ndarray]:
    """The first `count` tokens of one row."""
    while count > 0:
        (tokens,) = next(chunks)
        yield tokens[:count]
        count -= len(tokens)


def _pieces(
    tokenizer: Tokenizer, prompt: np.ndarray, chunks: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    """The speech after the prompt: a piece of each chunk of tokens, perhaps empty; the rest."""
    voice = Speaking(tokenizer, prompt)
    yield from map(voice.push, chunks)
    yield voice.finish()
