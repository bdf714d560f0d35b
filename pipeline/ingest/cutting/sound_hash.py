"""A hash by which the same sound is known, whatever container it lies in."""

import hashlib

import numpy as np

from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.resampling import resampler


class SoundHash:
    """A hash of mono sound, as 16-bit PCM at 16 kHz: 32 hexadecimal digits."""

    def __init__(self, sample_rate: int) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._resampler = None if sample_rate == SAMPLE_RATE else resampler(sample_rate)

    def add(self, block: np.ndarray, last: bool = False) -> None:
        """The next samples, (n,) float32."""
        if self._resampler is not None:
            block = self._resampler.resample_chunk(np.ascontiguousarray(block), last=last)
        steps = np.clip(np.rint(block * np.float32(1 << 15)), -(1 << 15), (1 << 15) - 1)
        self._digest.update(steps.astype("<i2").tobytes())

    def value(self) -> str:
        """The hash, once all samples have come."""
        if self._resampler is not None:
            self.add(np.zeros(0, np.float32), last=True)
            self._resampler = None
        return self._digest.hexdigest()
