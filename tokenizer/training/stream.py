"""Batches in a fixed order, read ahead by other processes, from any position on."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

PREFETCHED_BATCHES = 8


class NumberedBatches(Protocol):
    """Batches that are numbered from 0, without end."""

    def numbered(self, first: int, every: int) -> Iterator[Any]:
        """Batches `first`, `first` + `every`, and so on."""
        ...


class BatchStream:
    """The batches of one training process, without end.

    Its state is how many batches it has given: a stream that loads it continues with the next one.
    """

    def __init__(self, source: NumberedBatches, readers: int = 0, pin_memory: bool = False) -> None:
        """readers: processes that read; 0 reads in this one."""
        self.source, self.readers, self.pin_memory = source, readers, pin_memory
        self.drawn = 0
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Any:
        """The next batch."""
        if self._batches is None:
            # Spawned, not forked: the training process has Ray's and OpenMP's threads.
            loader = DataLoader(
                _FromPosition(self.source, self.drawn),
                batch_size=None,
                num_workers=self.readers,
                prefetch_factor=PREFETCHED_BATCHES if self.readers else None,
                multiprocessing_context="spawn" if self.readers else None,
                pin_memory=self.pin_memory,
            )
            self._batches = iter(loader)
        batch = next(self._batches)
        self.drawn += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """{"batches": given so far}."""
        return {"batches": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from there."""
        self.move_to(state["batches"])

    def move_to(self, batch: int) -> None:
        """Continue with the batch of this number."""
        self.drawn, self._batches = batch, None


class _FromPosition(IterableDataset):
    """Batches from number `first` on. Of n readers, each reads every n-th, as DataLoader expects.

    DataLoader takes a batch from each reader in turn, so the order is that of the numbers.
    """

    def __init__(self, source: NumberedBatches, first: int) -> None:
        self.source, self.first = source, first

    def __iter__(self) -> Iterator[Any]:
        reader = get_worker_info()
        if reader is None:
            return self.source.numbered(self.first, 1)
        return self.source.numbered(self.first + reader.id, reader.num_workers)
