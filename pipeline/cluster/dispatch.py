"""Windows → batches of similar length → encoder actors → results, few batches in flight.

Imports no PyTorch: a shard task is a small process.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import ray
from ray.actor import ActorHandle

from pipeline.settings import BatchLimits

Tag = TypeVar("Tag")
# Windows are sorted by length within this many batches' worth, so that a batch needs little
# padding.
BATCHES_SORTED_TOGETHER = 8


def form_batches(
    windows: Iterable[tuple[Tag, np.ndarray]], limits: BatchLimits
) -> Iterator[list[tuple[Tag, np.ndarray]]]:
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
    pool: list[tuple[Tag, np.ndarray]], limits: BatchLimits
) -> Iterator[list[tuple[Tag, np.ndarray]]]:
    batch: list[tuple[Tag, np.ndarray]] = []
    for window in sorted(pool, key=lambda window: len(window[1])):
        # Sorted, so this window is the longest yet and decides the padding.
        if len(batch) >= limits.size or (len(batch) + 1) * len(window[1]) > limits.samples:
            if batch:
                yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


class Dispatcher:
    """Sends batches to encoders and yields the results as they come.

    The driver makes one for each shard task.
    """

    def __init__(self, encoders: list[ActorHandle], method: str, *, limit: int, first: int) -> None:
        """method: of the encoder. limit: batches in flight. first: the encoder to begin with, so
        that shards use different ones.
        """
        first %= len(encoders)
        self.encoders = encoders[first:] + encoders[:first]
        self.method, self.limit = method, limit
        self.in_flight: dict[ray.ObjectRef, tuple[int, list]] = {}
        self.load = [0] * len(encoders)

    def encode_all(
        self, windows: Iterable[tuple[Tag, np.ndarray]], limits: BatchLimits
    ) -> Iterator[tuple[Tag, np.ndarray]]:
        """(tag, waveform) pairs → (tag, result) pairs, in the order in which batches come back."""
        for batch in form_batches(windows, limits):
            while len(self.in_flight) >= self.limit:
                yield from self._collect()
            self._submit(batch)
        while self.in_flight:
            yield from self._collect()

    def _submit(self, batch: list[tuple[Tag, np.ndarray]]) -> None:
        """Send a batch to the encoder with the fewest of this task's batches."""
        index = min(range(len(self.load)), key=self.load.__getitem__)
        ref = getattr(self.encoders[index], self.method).remote([wave for _, wave in batch])
        self.in_flight[ref] = index, [tag for tag, _ in batch]
        self.load[index] += 1

    def _collect(self) -> Iterator[tuple]:
        """Wait for one batch."""
        (ref,), _ = ray.wait(list(self.in_flight), num_returns=1)
        index, tags = self.in_flight.pop(ref)
        self.load[index] -= 1
        yield from zip(tags, ray.get(ref), strict=True)
