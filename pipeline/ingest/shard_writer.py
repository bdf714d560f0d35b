"""The shards that one task of ingest writes: as many as its samples fill."""

import random
import shutil
from pathlib import Path
from typing import BinaryIO

from tokenizer.storage.folder import Folder
from tokenizer.storage.tars import TarWriter

# An ending, its content, and its size.
Member = tuple[str, BinaryIO | bytes, int]


class ShardWriter:
    """The shards of one task: NAME.tar, and NAME-0001.tar and so on where one is full.

    names: {key: name of its shard} of all samples so far.
    """

    def __init__(
        self,
        folder: Folder,
        scratch: Path,
        *,
        name: str,
        shard_bytes: int,
        form: str = "{}.tar",
        shuffle: random.Random | None = None,
    ) -> None:
        """scratch: a local folder. form: of a shard's path in the folder, from its name. shuffle:
        puts the samples in another order once all have come, by a copy of them on the local disk.
        """
        self.folder, self.scratch, self.task = folder, scratch, name
        self.shard_bytes, self.form, self.shuffle = shard_bytes, form, shuffle
        self.number, self.size = 0, 0
        self.names: dict[str, str] = {}
        self._tar: TarWriter | None = None
        # To be shuffled: the members of all samples, and where each sample's lie.
        self._spool = (scratch / "samples").open("w+b") if shuffle is not None else None
        self._places: dict[str, list[tuple[str, int, int]]] = {}

    def add(self, key: str, members: list[Member]) -> None:
        """Append a sample's members: (ending, file or bytes, size)."""
        if self._spool is None:
            self._write(key, members)
            return
        self._places[key] = [self._spooled(*member) for member in members]
        self.names[key] = ""

    def add_late(self, key: str, content: bytes) -> bool:
        """Append the json of a sample that was added before.

        Returns False where its shard is published already. Readers of these shards take json that
        lies apart from its audio.
        """
        if key in self._places:
            self._places[key].append(self._spooled("json", content, len(content)))
            return True
        if self._tar is None or self.names.get(key) != self._name():
            return False
        self._tar.add(f"{key}.json", content)
        self.size += len(content)
        return True

    def finish(self) -> None:
        """Publish what is left."""
        if self._spool is not None and self.shuffle is not None:
            keys = sorted(self._places)
            self.shuffle.shuffle(keys)
            for key in keys:
                self._write(key, [self._unspooled(*place) for place in self._places[key]])
            self._spool.close()
        self._publish()

    def _name(self) -> str:
        return f"{self.task}-{self.number:04d}" if self.number else self.task

    def _write(self, key: str, members: list[Member]) -> None:
        if self._tar is not None and self.size >= self.shard_bytes:
            self._publish()
            self.number += 1
        if self._tar is None:
            self._tar, self.size = TarWriter(self.scratch / "shard.tar"), 0
        self.names[key] = self._name()
        for ending, content, size in members:
            name = f"{key}.{ending}"
            if isinstance(content, bytes):
                self._tar.add(name, content)
            else:
                self._tar.add_file(name, content, size)
            self.size += size

    def _publish(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self.folder.publish(self.scratch / "shard.tar", self.form.format(self._name()))
        self._tar = None

    def _spooled(self, ending: str, content: BinaryIO | bytes, size: int) -> tuple[str, int, int]:
        assert self._spool is not None
        start = self._spool.tell()
        if isinstance(content, bytes):
            self._spool.write(content)
        else:
            shutil.copyfileobj(content, self._spool, 1 << 20)
        return ending, start, size

    def _unspooled(self, ending: str, start: int, size: int) -> Member:
        assert self._spool is not None
        self._spool.seek(start)
        return ending, self._spool.read(size), size
