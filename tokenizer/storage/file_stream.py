"""A file on any filesystem, read once from start to end: all of it, or an error."""

import io
import shutil
import time
from pathlib import Path
from typing import Any

from tokenizer.errors import one_line
from tokenizer.storage.folder import READ_AHEAD, public_url
from tokenizer.storage.retries import FINAL, StoreFailed, patiently

# How often a read that fails or ends too early is tried again from where it stopped.
SHORT_READS = 5


class FileStream(io.RawIOBase):
    """A file's bytes, from start to end.

    The end is where its size says it is: a store whose answer stops before it has failed, and is
    asked again for the rest. url: for messages. size: -1 where it is not known. bytes_read: so far.
    """

    def __init__(self, fs: Any, path: str) -> None:
        """fs, path: as `filesystem` gives them. Raises FileNotFoundError and other OSErrors."""
        self.fs, self.path = fs, path
        self.url = public_url(fs.unstrip_protocol(path))
        self.info: dict[str, Any] = patiently(fs.info, path)
        size = self.info.get("size")
        self.size = -1 if size is None else int(size)
        self.bytes_read = 0
        self._file: Any = None

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes read so far."""
        return self.bytes_read

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; fewer only at the end. Raises OSError when the store fails."""
        if self.size >= 0:
            left = self.size - self.bytes_read
            size = left if size < 0 else min(size, left)
        data, tries = b"", 0
        while True:
            wanted = size if size < 0 else size - len(data)
            try:
                part, problem = self._opened().read(wanted), ""
            except FINAL:
                raise
            except OSError as error:
                part, problem = b"", f", {one_line(error)}"
            self.bytes_read += len(part)
            data = data + part if data else part
            if not problem and (self.size < 0 or len(data) >= size):
                return data
            if tries == SHORT_READS:
                where = f"{self.bytes_read:,} of {self.size:,} bytes"
                raise StoreFailed(f"{self.url} ended after {where}{problem}")
            time.sleep(0.1 * 2**tries)
            tries += 1
            self._close_file()

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer; fewer bytes only at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._close_file()
        super().close()

    def _opened(self) -> Any:
        if self._file is None:
            self._file = self.fs.open(self.path, "rb", **READ_AHEAD)
            if self.bytes_read:
                self._file.seek(self.bytes_read)
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_whole(fs: Any, path: str) -> bytes:
    """A small file's content. Raises OSError as FileStream does."""
    with FileStream(fs, path) as stream:
        return stream.read()


def copy_whole(fs: Any, path: str, target: Path) -> None:
    """Copy a file to a local disk. Raises OSError as FileStream does."""
    with FileStream(fs, path) as stream, target.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
