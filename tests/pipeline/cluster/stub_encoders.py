"""Encoders for tests of dispatch: they give the length of each window, or die, or do not answer."""

import os

import numpy as np


class Lengths:
    """An encoder: each window's length. A window that begins with -1 kills it, one with -2 breaks
    its GPU.
    """

    def encode(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        """[(1,) length of each]."""
        if any(window[0] == -1 for window in windows):
            os._exit(1)
        if any(window[0] == -2 for window in windows):
            raise RuntimeError("CUDA error: device-side assert triggered")
        return [np.array([len(window)]) for window in windows]

    def process(self) -> int:
        """Its process id."""
        return os.getpid()


class SmallLengths(Lengths):
    """An encoder whose memory holds 64,000 samples, padding included."""

    def encode(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        """As Lengths."""
        if len(windows) * max(map(len, windows)) > 64_000:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().encode(windows)
