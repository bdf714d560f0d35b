"""What a person knows of the speech that is scored: phone labels of frames, and ABX items."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.evaluation.abx import Item, read_items
from tokenizer.errors import UsageError
from tokenizer.storage.folder import filesystem


@dataclass
class PhoneLabels:
    """{key: (label duration in ms, (labels,) int32 into `phones`)}. Silence is a phone like any."""

    phones: dict[str, int] = field(default_factory=dict)
    of_key: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)

    def add(self, line: str) -> None:
        """Take one JSON line. Raises ValueError saying what is wrong with it."""
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError("is not JSON") from error
        entry = entry if isinstance(entry, dict) else {}
        key, duration, names = (entry.get(name) for name in ("key", "frame_ms", "phones"))
        if not isinstance(key, str):
            raise ValueError('has no string under "key"')
        if isinstance(duration, bool) or not isinstance(duration, int | float) or not duration > 0:
            raise ValueError('has no number over zero under "frame_ms"')
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError('has no list of strings under "phones"')
        if key in self.of_key:
            raise ValueError(f'has the key "{key}" of an earlier line')
        codes = [self.phones.setdefault(name, len(self.phones)) for name in names]
        self.of_key[key] = (duration, np.array(codes, np.int32))


def read_phones(url: str) -> PhoneLabels:
    """Read JSON lines of {"key", "frame_ms", "phones"}: a phone every `frame_ms` milliseconds.

    Raises UsageError when the file cannot be read, and names a line that is not of this form.
    """
    labels = PhoneLabels()
    for number, line in enumerate(_lines(url), 1):
        if not line.strip():
            continue
        try:
            labels.add(line)
        except ValueError as error:
            remedy = 'a line is {"key": ..., "frame_ms": 10, "phones": [...]}'
            raise UsageError(f"line {number} {error}", remedy, value=url) from error
    if not labels.of_key:
        raise UsageError("it has no labels", "give a file of JSON lines", value=url)
    return labels


def read_item_file(url: str) -> list[Item]:
    """Read an item file. Raises UsageError when it is none, and names the line."""
    try:
        return read_items(_lines(url))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        remedy = "give an item file as Libri-Light's"
        raise UsageError(str(error), remedy, value=url) from error


def _lines(url: str) -> Iterator[str]:
    fs, path = filesystem(url)
    try:
        data = fs.cat_file(path)
        yield from io.StringIO(data.decode())
    except UnicodeDecodeError as error:
        raise UsageError("it is not UTF-8 text", "give a text file", value=url) from error
    except Exception as error:  # whatever a store raises, this file cannot be read
        problem = f"it cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        raise UsageError(problem[:300], "check the path and your credentials", value=url) from error
