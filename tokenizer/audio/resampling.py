"""Blocks of samples at one rate → blocks at another, by soxr: as a single call would give them."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.reasons import NOT_AUDIO, AudioError

INT16_STEP = 2.0**-15


def as_float(samples: np.ndarray) -> np.ndarray:
    """int16 samples → float32 in [-1, 1), exactly; float32 ones stay as they are."""
    return samples * np.float32(INT16_STEP) if samples.dtype == np.int16 else samples


def resample(
    blocks: Iterable[np.ndarray], sample_rate: int, new_rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """Blocks at any rate → float32 blocks at a new one, 16 kHz unless given.

    blocks: (n,) or (n, channels), all with the same number of channels.
    """
    if sample_rate == new_rate:
        yield from blocks
        return
    stream, shape = None, (0,)
    for block in blocks:
        if stream is None:
            shape = (0, *block.shape[1:])
            channels = block.shape[1] if block.ndim == 2 else 1
            stream = resampler(sample_rate, new_rate, channels=channels)
        yield stream.resample_chunk(as_float(block))
    if stream is not None:
        yield stream.resample_chunk(np.empty(shape, np.float32), last=True)


def resampler(
    rate: int, new_rate: int = SAMPLE_RATE, *, channels: int = 1
) -> "soxr.ResampleStream":
    """A stream that resamples float32 blocks. Raises AudioError for rates it cannot take."""
    try:
        return soxr.ResampleStream(rate, new_rate, channels, "float32", "HQ")
    except (ValueError, RuntimeError) as error:
        raise AudioError(NOT_AUDIO, f"cannot resample from {rate} Hz: {error}") from error
