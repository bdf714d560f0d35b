"""Segments of equal length, whatever a recording holds."""

from collections.abc import Iterable

import numpy as np

from pipeline.ingest.settings import IngestSettings
from tokenizer.audio.frames import SAMPLE_RATE


class FixedSegmenter:
    """Segments of `max_seconds`; the last two share what is left evenly."""

    def __init__(self, settings: IngestSettings) -> None:
        self.most = settings.max_seconds
        self.undecided_from = 0.0
        self._samples = 0

    def feed(self, block: np.ndarray) -> Iterable[tuple[float, float]]:
        """More of the recording, (n,) at 16 kHz → segments (start, end) that are certain now."""
        self._samples += len(block)
        found = []
        while self._samples / SAMPLE_RATE - self.undecided_from >= 2 * self.most:
            found.append(self._next(self.most))
        return found

    def finish(self) -> Iterable[tuple[float, float]]:
        """The end of the recording → the segments that were left."""
        left = self._samples / SAMPLE_RATE - self.undecided_from
        if left <= self.most:
            return [self._next(left)] if left else []
        return [self._next(left / 2), self._next(left / 2)]

    def _next(self, seconds: float) -> tuple[float, float]:
        start = self.undecided_from
        self.undecided_from = start + seconds
        return start, self.undecided_from
