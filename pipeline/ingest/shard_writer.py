"""The shards that one task of ingest writes: as many as its samples fill."""

from pathlib import Path
from typing import BinaryIO

from tokenizer.storage.folder import Folder
from tokenizer.storage.tars import TarWriter

# An ending, its content, and its size.
Member = tuple[str, BinaryIO | bytes, int]


class ShardWriter:
    """The shards of one task: NAME.tar, and NAME-0001.tar and so on where one is full."""

    def __init__(self, folder: Folder, scratch: Path, *, name: str, shard_bytes: int) -> None:
        self.folder, self.path, self.task = folder, scratch / "shard.tar", name
        self.shard_bytes, self.number, self.size = shard_bytes, 0, 0
        self.tar: TarWriter | None = None
        # Of the samples in the open shard.
        self.keys: set[str] = set()

    @property
    def name(self) -> str:
        """Of the shard to which the next sample goes."""
        full = self.tar is not None and self.size >= self.shard_bytes
        number = self.number + full
        return f"{self.task}-{number:04d}" if number else self.task

    def add_late(self, name: str, content: bytes) -> None:
        """Append one member to the open shard."""
        assert self.tar is not None
        self.tar.add(name, content)
        self.size += len(content)

    def add(self, key: str, members: list[Member]) -> None:
        """Append a sample's members: (ending, file or bytes, size)."""
        if self.tar is not None and self.size >= self.shard_bytes:
            self.publish()
            self.number += 1
        if self.tar is None:
            self.tar, self.size = TarWriter(self.path), 0
        self.keys.add(key)
        for ending, content, size in members:
            name = f"{key}.{ending}"
            if isinstance(content, bytes):
                self.tar.add(name, content)
            else:
                self.tar.add_file(name, content, size)
            self.size += size

    def publish(self) -> None:
        """Publish the shard that is open, if one is."""
        if self.tar is None:
            return
        name = f"{self.task}-{self.number:04d}" if self.number else self.task
        self.tar.close()
        self.folder.publish(self.path, f"{name}.tar")
        self.tar = None
        self.keys.clear()
