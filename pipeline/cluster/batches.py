"""Windows → batches of similar length, in an order that the windows' own order decides."""

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from pipeline.settings import BatchLimits

Tag = TypeVar("Tag")
# Windows are sorted by length within this many batches' worth, so that a batch needs little
# padding.
BATCHES_SORTED_TOGETHER = 8


def form_batches(
    windows: Iterable[tuple[Tag, Sized]], limits: BatchLimits
) -> Iterator[list[tuple[Tag, Sized]]]:
    """(tag, waveform) pairs → batches of similar length, which depend on the pairs' order alone."""
    pool, samples = [], 0
    for window in windows:
        pool.append(window)
        samples += len(window[1])
        full = len(pool) >= BATCHES_SORTED_TOGETHER * limits.size
        if full or samples >= BATCHES_SORTED_TOGETHER * limits.samples:
            yield from _sorted_batches(pool, limits)
            pool, samples = [], 0
    yield from _sorted_batches(pool, limits)


def _sorted_batches(
    pool: list[tuple[Tag, Sized]], limits: BatchLimits
) -> Iterator[list[tuple[Tag, Sized]]]:
    batch: list[tuple[Tag, Sized]] = []
    for window in sorted(pool, key=lambda window: len(window[1])):
        # Sorted, so this window is the longest yet and decides the padding.
        if len(batch) >= limits.size or (len(batch) + 1) * len(window[1]) > limits.samples:
            if batch:
                yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
