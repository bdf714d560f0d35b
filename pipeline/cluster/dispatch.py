"""Windows into batches of like length, batches to encoders, results back: few at a time in flight.

Imports no PyTorch: a shard task is a small process.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import ray
from ray.actor import ActorHandle

from pipeline.settings import BatchLimits

# Windows are sorted by length within this many batches' worth, so that like meets like.
BATCHES_SORTED_TOGETHER = 8


def form_batches(
    windows: Iterable[tuple[object, np.ndarray]], batching: BatchLimits
) -> Iterator[list[tuple[object, np.ndarray]]]:
    """(tag, waveform) pairs → batches of like length, which depend on the windows' order alone."""
    pool, samples = [], 0
    for window in windows:
        pool.append(window)
        samples += len(window[1])
        full = len(pool) >= BATCHES_SORTED_TOGETHER * batching.size
        if full or samples >= BATCHES_SORTED_TOGETHER * batching.samples:
            yield from _sorted_batches(pool, batching)
            pool, samples = [], 0
    yield from _sorted_batches(pool, batching)


def _sorted_batches(pool: list, batching: BatchLimits) -> Iterator[list]:
    batch = []
    for window in sorted(pool, key=lambda window: len(window[1])):
        # Sorted, so this window is the longest yet and decides the padding.
        if len(batch) >= batching.size or (len(batch) + 1) * len(window[1]) > batching.samples:
            if batch:
                yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def encode_all(
    windows: Iterable[tuple[object, np.ndarray]], dispatcher: "Dispatcher", batching: BatchLimits
) -> Iterator[tuple[object, np.ndarray]]:
    """(tag, waveform) pairs → (tag, result) pairs, in the order in which batches come back."""
    for batch in form_batches(windows, batching):
        tags = [tag for tag, _ in batch]
        for done, results in dispatcher.submit([wave for _, wave in batch], tags):
            yield from zip(done, results, strict=True)
    for done, results in dispatcher.drain():
        yield from zip(done, results, strict=True)


class Dispatcher:
    """Sends batches to encoders and yields their results as they come, few at a time in flight."""

    def __init__(
        self, encoders: list[ActorHandle], method: str, limit: int, start: int = 0
    ) -> None:
        """limit: batches in flight. start: the encoder to begin with, so that shards spread."""
        self.encoders = encoders[start % len(encoders) :] + encoders[: start % len(encoders)]
        self.method, self.limit = method, limit
        self.in_flight: dict[ray.ObjectRef, tuple[int, object]] = {}
        self.load = [0] * len(encoders)

    def submit(self, batch: list[np.ndarray], tag: object):
        """Send a batch to the least busy encoder. Yields (tag, result) of those that had to end."""
        while len(self.in_flight) >= self.limit:
            yield from self._collect()
        index = min(range(len(self.load)), key=self.load.__getitem__)
        ref = getattr(self.encoders[index], self.method).remote(batch)
        self.in_flight[ref] = index, tag
        self.load[index] += 1

    def drain(self):
        """Yields (tag, result) of all that is still in flight."""
        while self.in_flight:
            yield from self._collect()

    def _collect(self):
        (ref,), _ = ray.wait(list(self.in_flight), num_returns=1)
        index, tag = self.in_flight.pop(ref)
        self.load[index] -= 1
        yield tag, ray.get(ref)
