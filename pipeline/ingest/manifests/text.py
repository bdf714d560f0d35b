"""The lines of a text file, gzipped or not, numbered, on any filesystem."""

import io
import json
from collections.abc import Iterator
from typing import cast

from pipeline.shards.metadata import finite
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.file_stream import FileStream
from tokenizer.storage.folder import filesystem
from tokenizer.storage.unpacking import Unpacked, UnpackError

# A longer line is no line of a manifest.
LONGEST_LINE = 16 << 20


class _Raw(io.RawIOBase):
    """A file without its compression, which is closed with it."""

    def __init__(self, file: FileStream) -> None:
        self._file, self._stream = file, Unpacked(file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_text(url: str) -> io.TextIOWrapper:
    """A text file as UTF-8, for one pass; what is not UTF-8 comes as surrogates."""
    fs, path = filesystem(url)
    buffered = io.BufferedReader(_Raw(FileStream(fs, path)), 1 << 20)
    return io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")


def json_object(line: str) -> dict | None:
    """The JSON object in a line; None where there is none."""
    try:
        # Python's json takes NaN, Infinity and 1e999, which are no JSON.
        value = json.loads(line, parse_constant=lambda _: None, parse_float=finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


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
