"""The lines of a text file, gzipped or not, numbered, on any filesystem."""

import io
from collections.abc import Iterator
from typing import cast

from tokenizer.errors import UsageError, one_line
from tokenizer.storage.file_stream import FileStream
from tokenizer.storage.folder import filesystem
from tokenizer.storage.unpacking import Unpacked, UnpackError

# A longer line is no line of a manifest.
LONGEST_LINE = 16 << 20


class _Raw(io.RawIOBase):
    def __init__(self, stream: Unpacked) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)


def open_text(url: str) -> io.TextIOWrapper:
    """A text file as UTF-8, for one pass; what is not UTF-8 comes as surrogates."""
    fs, path = filesystem(url)
    raw = Unpacked(FileStream(fs, path))
    buffered = io.BufferedReader(_Raw(raw), 1 << 20)
    return io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")


def numbered_lines(url: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of every line that is not blank.

    Raises UsageError where the file cannot be read, is cut or damaged, or is no text.
    """
    number = 0
    try:
        with open_text(url) as text:
            while line := text.readline(LONGEST_LINE):
                number += 1
                if len(line) >= LONGEST_LINE or "\0" in line:
                    raise ValueError("it is no text")
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, UnpackError, ValueError) as error:
        raise UsageError(
            f"it cannot be read as a manifest, at line {number + 1}: {one_line(error)}",
            "mend it, or make it again",
            value=url,
        ) from error
