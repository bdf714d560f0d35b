"""The crops that a training process trains on, from where each of its readers is."""

from collections.abc import Iterator
from typing import Any

from pipeline.training.crops import Batch, Crops, Position
from tokenizer.training.stream import BatchStream


class CropStream(BatchStream):
    """The batches of one training process. Its state has the position of each reader."""

    def __init__(self, crops: Crops, readers: int = 0, pin_memory: bool = False) -> None:
        self.reading = _CropReaders(crops, {})
        super().__init__(self.reading, readers, pin_memory)

    def __next__(self) -> Batch:
        number = self.drawn
        position, batch = super().__next__()
        self.reading.positions[number % max(1, self.readers)] = position
        return batch

    def state_dict(self) -> dict[str, Any]:
        """{"batches": given so far, "positions": of each reader}."""
        positions = {str(reader): list(p) for reader, p in self.reading.positions.items()}
        return {"batches": self.drawn, "positions": positions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there; another number of readers continues with other audio."""
        positions = {int(reader): tuple(p) for reader, p in state["positions"].items()}
        self.reading.positions = positions
        self.move_to(state["batches"])


class _CropReaders:
    """Crops from where each reader is; a reader process gets a copy of this."""

    def __init__(self, crops: Crops, positions: dict[int, Position]) -> None:
        self.crops, self.positions = crops, positions

    def numbered(self, first: int, every: int) -> Iterator[tuple[Position, Batch]]:
        """As NumberedBatches says."""
        position = self.positions.get(first % every, (first // every, 0))
        return self.crops.read(first, every, position=position)
