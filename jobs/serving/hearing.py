"""One utterance as a page sends it: samples → tokens.

A causal tokenizer gives tokens while samples come, and any other all of them at the end.
"""

import io

import numpy as np
import soxr

from tokenizer.audio.decoding import read_utterance
from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.audio.reasons import EMPTY, NOT_AUDIO, TOO_LONG, TOO_SHORT, AudioError
from tokenizer.errors import UsageError
from tokenizer.stream import TokenStream
from tokenizer.tokenizer import Tokenizer

# What is kept of an utterance lies in memory: ten minutes are 38 MB.
LONGEST_SECONDS = 600
LOWEST_RATE, HIGHEST_RATE = 8_000, 384_000


def why_whole(tokenizer: Tokenizer) -> str | None:
    """Why tokens come only at an utterance's end; None where they come while someone speaks.

    Raises UsageError where the tokenizer has no codebook.
    """
    tokenizer.needed_codebook()
    try:
        tokenizer.stream()
    except UsageError as error:
        return error.problem
    return None


class Hearing:
    """The tokens of one utterance, from samples at the page's own rate.

    heard: samples so far, at that rate. end: of them, those that the tokens given so far needed;
    first_end: those that the first chunk of the tokens given last needed.
    """

    def __init__(self, tokenizer: Tokenizer, sample_rate: float) -> None:
        """Raises UsageError for a sample rate that no microphone has."""
        if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
            problem = f"a sample rate of {sample_rate:g} Hz"
            raise UsageError(problem, f"send {LOWEST_RATE:,} to {HIGHEST_RATE:,}")
        self.tokenizer, self.sample_rate = tokenizer, sample_rate
        self.stream: TokenStream | None = None
        if why_whole(tokenizer) is None:
            self.stream = tokenizer.stream()
        self.resampler: soxr.ResampleStream | None = None
        if sample_rate != SAMPLE_RATE:
            self.resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32")
        self.kept: list[np.ndarray] = []
        self.heard = self.first_end = self.end = self.tokens = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next (n,) float32 samples → the (t,) tokens that are now complete, often none.

        Raises UsageError for infinite samples and NaN, and for over LONGEST_SECONDS in all.
        """
        if not np.isfinite(samples).all():
            raise UsageError("a sample is infinite or no number", "send values from -1 to 1")
        self.heard += len(samples)
        if self.heard > LONGEST_SECONDS * self.sample_rate:
            raise UsageError(f"it is over {LONGEST_SECONDS // 60} minutes", "speak in parts")
        return self._tokens(self._resampled(samples, last=False))

    def finish(self) -> np.ndarray:
        """The remaining tokens. Raises UsageError where there is no frame of sound at all."""
        tokens = self._tokens(self._resampled(np.empty(0, np.float32), last=True))
        rest = self._last_tokens()
        self.tokens += len(rest)
        self.first_end = self.end = self.heard
        if not self.tokens:
            raise UsageError("there is no sound in it", "speak for longer")
        return np.concatenate([tokens, rest])

    def _last_tokens(self) -> np.ndarray:
        if self.stream is not None:
            return self.stream.finish()
        samples = np.concatenate([np.empty(0, np.float32), *self.kept])
        self.kept = []
        if len(samples) < RECEPTIVE_FIELD:
            return np.empty(0, self.tokenizer.token_dtype)
        return self.tokenizer.encode(samples)

    def _resampled(self, samples: np.ndarray, last: bool) -> np.ndarray:
        if self.resampler is None:
            return samples
        return self.resampler.resample_chunk(samples, last=last)

    def _tokens(self, samples: np.ndarray) -> np.ndarray:
        if self.stream is None:
            self.kept.append(samples)
            return np.empty(0, self.tokenizer.token_dtype)
        chunk = self.stream.chunk_frames // self.tokenizer.frames_per_token
        self.first_end = self._needed(self.tokens + chunk)
        tokens = self.stream.push(samples)
        self.tokens += len(tokens)
        self.end = self._needed(self.tokens)
        return tokens

    def _needed(self, tokens: int) -> int:
        """How many of the page's samples so many tokens need."""
        past = 0 if self.tokenizer.left_padding else RECEPTIVE_FIELD - SAMPLES_PER_FRAME
        samples = tokens * self.tokenizer.frames_per_token * SAMPLES_PER_FRAME + past
        return min(self.heard, -int(-samples * self.sample_rate // SAMPLE_RATE))


def waveform_of(content: bytes) -> np.ndarray:
    """A whole file → (n,) float32 at 16 kHz. Raises UsageError for what is no speech."""
    try:
        most = LONGEST_SECONDS * SAMPLE_RATE
        utterance = read_utterance(io.BytesIO(content), most, float(LONGEST_SECONDS))
    except AudioError as error:
        problem = str(error)
        if error.reason == NOT_AUDIO:
            problem = "it is no audio"
        elif error.reason == TOO_LONG:
            problem = f"it is over {LONGEST_SECONDS // 60} minutes"
        elif error.reason in (EMPTY, TOO_SHORT):
            problem = "there is no sound in it"
        raise UsageError(problem, "choose a file of speech") from error
    return np.concatenate([np.empty(0, np.float32), *utterance.blocks()])
