"""Streams: tokens while someone speaks, and speech while tokens come.

Each chunk of 4 frames passes once through encoder and compressor, which keep a state from chunk to
chunk. The tokens are those that the whole utterance gets in one pass. The latency is 85 ms, a chunk
and the 80 samples that its last frame sees after it, plus the time to compute; with replicate
padding no frame sees past its chunk, and it is 80 ms. Decoding adds the overlap of the vocoder's
windows: see Vocoder.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME, num_frames
from tokenizer.audio.windows import left_padded
from tokenizer.codec.decoder import Decoding, DecodingState
from tokenizer.codec.focal import State
from tokenizer.encoder.causal_wavlm import CHUNKS_PER_BLOCK, CausalWavLM, EncoderState
from tokenizer.errors import UsageError

if TYPE_CHECKING:
    from tokenizer.tokenizer import Tokenizer

TRAIN_CAUSAL = "train a causal one"


class TokenStream:
    """The tokens of one utterance, chunk by chunk.

    >>> stream = tokenizer.stream()
    >>> for samples in microphone:
    ...     use(stream.push(samples))
    >>> use(stream.finish())
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        """Raises UsageError unless encoder and compressor are causal and nothing is centred."""
        encoder, compression = tokenizer.encoder, tokenizer.compression
        if not isinstance(encoder, CausalWavLM):
            raise UsageError("the tokenizer's encoder is not causal", TRAIN_CAUSAL)
        if compression is not None:
            config = compression.compressor.config
            if not config.causal:
                raise UsageError("the tokenizer's compressor is not causal", TRAIN_CAUSAL)
            if encoder.config.chunk_frames % config.frames_per_token:
                problem = "a chunk of the tokenizer's encoder is not a whole number of tokens"
                raise UsageError(problem, TRAIN_CAUSAL)
        if tokenizer.center is not None:
            problem = "the tokenizer centres features over the whole utterance"
            raise UsageError(problem, "train one that does not")
        self.tokenizer, self.encoder = tokenizer, encoder
        self.codebook = tokenizer.needed_codebook()
        self.chunk_frames = encoder.config.chunk_frames
        self.left_padding = tokenizer.left_padding
        self.waiting, self.seen = np.empty(0, np.float32), 0
        self.encoder_state: EncoderState | None = None
        self.compressor_state: list[State] | None = None
        self.finished = False

    @property
    def latency_seconds(self) -> float:
        """Seconds from a chunk's first sample until its tokens can come: 0.085 for 4 frames.

        With replicate padding 0.08: the longest time from a sample to the first tokens that depend
        on it.
        """
        after_chunk = 0 if self.left_padding else RECEPTIVE_FIELD - SAMPLES_PER_FRAME
        return (self.chunk_frames * SAMPLES_PER_FRAME + after_chunk) / SAMPLE_RATE

    def push(self, samples: np.ndarray | Tensor) -> np.ndarray:
        """The next samples → the tokens of all chunks that are now complete.

        samples: (n,) of any n, mono at 16 kHz, float in [-1, 1]. Returns (T,) of the tokenizer's
        token_dtype; T is often 0. Raises UsageError for another shape, for integers, or after
        finish().
        """
        _check_open(self.finished)
        samples = np.asarray(samples)
        if samples.ndim != 1:
            problem = f"their shape is {samples.shape}"
            raise UsageError(problem, "give one channel, (n,)", argument="samples")
        if samples.dtype.kind != "f":
            problem = f"they are {samples.dtype}"
            raise UsageError(problem, "give float in [-1, 1]", argument="samples")
        samples = samples.astype(np.float32, copy=False)
        count = len(samples)
        if count and not self.seen:
            samples = left_padded(samples, self.left_padding)
        self.seen += count
        self.waiting = np.concatenate([self.waiting, samples])
        frames = self._complete_frames()
        return self._tokens(frames - frames % self.chunk_frames)

    def finish(self) -> np.ndarray:
        """The tokens of the last, partial chunk; an utterance of under 400 samples has none."""
        _check_open(self.finished)
        self.finished = True
        return self._tokens(self._complete_frames())

    def _complete_frames(self) -> int:
        """Frames whose samples are all waiting; none before 400 samples have come."""
        return num_frames(len(self.waiting)) if self.seen >= RECEPTIVE_FIELD else 0

    def _tokens(self, frames: int) -> np.ndarray:
        """The tokens of the first `frames` frames that are waiting."""
        block = CHUNKS_PER_BLOCK * self.chunk_frames
        tokens = [np.empty(0, self.tokenizer.token_dtype)]
        while frames:
            count = min(block, frames)
            samples = (count - 1) * SAMPLES_PER_FRAME + RECEPTIVE_FIELD
            tokens.append(self._block(torch.from_numpy(self.waiting[:samples])))
            self.waiting = self.waiting[count * SAMPLES_PER_FRAME :]
            frames -= count
        return np.concatenate(tokens)

    def _block(self, wave: Tensor) -> np.ndarray:
        compression = self.tokenizer.compression
        latents, self.encoder_state = self.encoder.step(wave, self.encoder_state)
        if compression is not None:
            latents, self.compressor_state = compression.next_latents(
                latents, self.compressor_state
            )
        return self.codebook.nearest(latents).cpu().numpy().astype(self.tokenizer.token_dtype)


class SpeechStream:
    """The speech of one utterance, chunk by chunk, from its tokens.

    >>> speech = tokenizer.speech_stream()
    >>> for tokens in model:
    ...     play(speech.push(tokens))
    >>> play(speech.finish())
    """

    def __init__(self, decoding: Decoding) -> None:
        """Raises UsageError unless there is a vocoder, and it and the decompressor are causal."""
        if not decoding.needed_vocoder().config.causal:
            raise UsageError("the tokenizer's vocoder is not causal", TRAIN_CAUSAL)
        if not decoding.is_causal:
            raise UsageError("the tokenizer's decompressor is not causal", TRAIN_CAUSAL)
        self.decoding = decoding
        self.waiting = decoding.codes_of(np.empty(0, np.int64))
        self.state = DecodingState()
        self.started = self.finished = False

    @property
    def sample_rate(self) -> int:
        """Of the samples, in Hz."""
        return self.decoding.sample_rate

    def push(self, tokens: np.ndarray) -> np.ndarray:
        """The next (t,) tokens → the samples that are now final, (n,) float32 in [-1, 1].

        Raises UsageError for tokens outside the codebook, or after finish().
        """
        _check_open(self.finished)
        self.waiting = torch.cat([self.waiting, self.decoding.codes_of(tokens)])
        whole = len(self.waiting) - len(self.waiting) % self.decoding.tokens_per_chunk
        return self._speech(whole, last=False) if whole else np.empty(0, np.float32)

    def finish(self) -> np.ndarray:
        """The remaining samples. With those of all pushes they are what decode() gives."""
        self.push(np.empty(0, np.int64))
        self.finished = True
        if not self.started and not len(self.waiting):
            return np.empty(0, np.float32)
        return self._speech(len(self.waiting), last=True)

    def _speech(self, count: int, last: bool) -> np.ndarray:
        """The speech of the first `count` tokens that are waiting."""
        codes, self.waiting = self.waiting[:count], self.waiting[count:]
        self.started = True
        wave, self.state = self.decoding.next_wave(codes, self.state, last)
        return wave


def _check_open(finished: bool) -> None:
    if finished:
        raise UsageError("the stream is finished", "start another one")
