"""Features of whole shards on a node's local disk, up to a number of bytes.

A shard's features are in one file, window by window: the number of frames (int64), and the frames
(fp32). It ends with -1 and, in JSON, how many samples were rejected. A file has its name once it is
whole; a task that dies leaves a partial one, which the next to encode that shard takes over.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.shards.inputs import Shard
from tokenizer.errors import is_disk_full

PARTIAL = ".partial"
# Room that a task takes for its file at once, so that it seldom looks at all files.
TAKEN_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """A folder of features. most_bytes: of all its files together; 0 keeps nothing."""

    folder: Path
    dimensions: int
    most_bytes: int

    def file(self, shard: Shard) -> Path:
        """Where a shard's features are; another version of the shard has another file."""
        key = json.dumps([shard.name, shard.size, shard.version])
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def has(self, shard: Shard) -> bool:
        """Whether the features of the whole shard are there."""
        return self.file(shard).exists()

    def read(self, shard: Shard, rejected: Counter[str]) -> Iterator[np.ndarray]:
        """(n, D) fp32 of each window; adds to `rejected` at the end.

        Raises ValueError for a file that is damaged, after removing it.
        """
        path = self.file(shard)
        with path.open("rb") as file:
            while True:
                head = file.read(8)
                frames = int.from_bytes(head, "little", signed=True) if len(head) == 8 else -2
                if frames == -1:
                    rejected.update(json.loads(file.read()))
                    return
                data = file.read(max(frames, 0) * self.dimensions * 4)
                if frames < 0 or len(data) < frames * self.dimensions * 4:
                    path.unlink(missing_ok=True)
                    raise ValueError(f"{path} was damaged and is removed")
                # A copy, as torch takes no array that cannot be written to.
                yield np.frombuffer(data, np.float32).reshape(frames, -1).copy()

    def used(self) -> int:
        """Bytes of all files, partial ones included."""
        total = 0
        for entry in os.scandir(self.folder):
            try:
                total += entry.stat().st_size
            except FileNotFoundError:
                continue  # renamed or removed by another task since it was listed
        return total

    def remove(self) -> None:
        """Remove all features."""
        shutil.rmtree(self.folder, ignore_errors=True)


class FeatureWriter:
    """Writes a shard's features into a cache, unless there is no room for them."""

    def __init__(self, cache: FeatureCache, shard: Shard) -> None:
        self.cache, self.path = cache, cache.file(shard)
        self.partial = self.path.with_name(self.path.name + PARTIAL)
        self.file: BinaryIO | None = None
        self.written = self.taken = 0
        if cache.most_bytes:
            cache.folder.mkdir(parents=True, exist_ok=True)
            self.partial.touch()
            self.file = self.partial.open("r+b")
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.file.truncate(0)
            except BlockingIOError:  # another task writes it
                self.file.close()
                self.file = None

    def add(self, features: np.ndarray) -> None:
        """Write the (n, D) fp32 features of one window."""
        self._write(len(features).to_bytes(8, "little"), features.tobytes())

    def finish(self, rejected: Counter[str]) -> bool:
        """Give the file its name. Returns whether the shard is kept."""
        self._write((-1).to_bytes(8, "little", signed=True), json.dumps(rejected).encode())
        if self.file is None:
            return False
        self.file.truncate(self.written)
        self.file.close()
        os.replace(self.partial, self.path)
        return True

    def _write(self, *parts: bytes) -> None:
        if self.file is None:
            return
        size = self.written + sum(map(len, parts))
        try:
            fits = size <= self.taken or self._take_room(self.file, size)
            if fits:
                for part in parts:
                    self.file.write(part)
                self.file.flush()
                self.written = size
        except OSError as error:
            if not is_disk_full(error):
                raise
            fits = False
        if not fits:  # this shard is encoded anew in each pass
            self.partial.unlink(missing_ok=True)
            self.file.close()
            self.file = None

    def _take_room(self, file: BinaryIO, size: int) -> bool:
        """Make the file as large as it may become, and at least so large. Returns if there is room.

        Its size is what counts, whatever has been written.
        """
        with (self.cache.folder / ".lock").open("ab") as lock:
            # One at a time, so that two tasks do not both take the last room.
            fcntl.flock(lock, fcntl.LOCK_EX)
            most = self.cache.most_bytes - self.cache.used() + self.taken
            if size > most:
                return False
            self.taken = min(most, size + TAKEN_BYTES)
            file.truncate(self.taken)
            return True
