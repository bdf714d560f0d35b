"""A file on any filesystem, read once from start to end: all of it, or an error."""

import io
import shutil
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from tokenizer.errors import one_line
from tokenizer.storage.folder import BLOCK_BYTES, READ_AHEAD, public_url
from tokenizer.storage.retries import FINAL, StoreFailed, patiently

# How often a read that fails or ends too early is tried again from where it stopped.
SHORT_READS = 5
# Blocks of a file that are fetched from a store at the same time, of 16 MB each.
BLOCKS_AHEAD = 3


class FileStream(io.RawIOBase):
    """A file's bytes, from start to end.

    The end is where its size says it is: a store whose answer stops before it has failed, and is
    asked again for the rest. From a store several blocks are fetched ahead, at the same time. url:
    for messages. size: -1 where it is not known. bytes_read: so far. waited: seconds spent waiting
    for bytes.
    """

    def __init__(self, fs: Any, path: str) -> None:
        """fs, path: as `filesystem` gives them. Raises FileNotFoundError and other OSErrors."""
        self.fs, self.path = fs, path
        self.url = public_url(fs.unstrip_protocol(path))
        self.info: dict[str, Any] = patiently(fs.info, path)
        size = self.info.get("size")
        self.size = -1 if size is None else int(size)
        self.bytes_read, self.waited = 0, 0.0
        # A local disk reads ahead by itself; without a size nobody knows where blocks end.
        self._far = self.size >= 0 and not isinstance(fs, LocalFileSystem)
        self._file: Any = None
        self._pool: ThreadPoolExecutor | None = None
        self._asked = 0
        self._coming: deque[Future[bytes]] = deque()
        self._block = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes read so far."""
        return self.bytes_read

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; fewer only at the end. Raises OSError when the store fails."""
        started = time.monotonic()
        if self.size >= 0:
            left = self.size - self.bytes_read
            size = left if size < 0 else min(size, left)
        if self._far:
            data = self._read_blocks(size)
        else:
            data = self._whole(self._read_file, self.bytes_read, size)
        self.bytes_read += len(data)
        self.waited += time.monotonic() - started
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer; fewer bytes only at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file; blocks that are on their way are not waited for."""
        self._close_file()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        super().close()

    def _read_file(self, start: int, size: int) -> bytes:
        if self._file is None:
            self._file = self.fs.open(self.path, "rb", **READ_AHEAD)
            if start:
                self._file.seek(start)
        return self._file.read(size)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_blocks(self, size: int) -> bytes:
        parts, wanted = [], size
        while wanted:
            if not self._block:
                self._ask()
                self._block = memoryview(self._coming.popleft().result())
            part, self._block = self._block[:wanted], self._block[wanted:]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def _ask(self) -> None:
        """Keep so many blocks on their way."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(BLOCKS_AHEAD)
        while len(self._coming) < BLOCKS_AHEAD and self._asked < self.size:
            size = min(BLOCK_BYTES, self.size - self._asked)
            self._coming.append(self._pool.submit(self._whole, self._fetch, self._asked, size))
            self._asked += size

    def _fetch(self, start: int, size: int) -> bytes:
        """Bytes of a store; runs in a thread."""
        return self.fs.cat_file(self.path, start=start, end=start + size)

    def _whole(self, ask: Callable[[int, int], bytes], start: int, size: int) -> bytes:
        """All `size` bytes from `start` on. ask: gives bytes from a place on, perhaps too few.

        Raises StoreFailed where they do not come, however often they are asked for.
        """
        data, problem = b"", ""
        for tries in range(SHORT_READS + 1):
            try:
                part, problem = ask(start + len(data), size - len(data) if size >= 0 else -1), ""
                data = data + part if data else part
            except FINAL:
                raise
            except OSError as error:
                problem = f" ({one_line(error)})"
            if not problem and (self.size < 0 or len(data) >= size):
                return data
            self._close_file()
            if tries < SHORT_READS:
                time.sleep(0.1 * 2**tries)
        where = f"{start + len(data):,} of {self.size:,} bytes"
        raise StoreFailed(f"{self.url} ended after {where}{problem}")


def read_whole(fs: Any, path: str) -> bytes:
    """A small file's content. Raises OSError as FileStream does."""
    with FileStream(fs, path) as stream:
        return stream.read()


def copy_whole(fs: Any, path: str, target: Path) -> None:
    """Copy a file to a local disk. Raises OSError as FileStream does."""
    with FileStream(fs, path) as stream, target.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
