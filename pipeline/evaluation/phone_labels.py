"""Annotation of the speech that is scored: metadata, phone labels of frames, ABX item files."""

import io
import json
from dataclasses import dataclass, field

import numpy as np

from pipeline.evaluation.abx_items import Item, read_items
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.file_stream import read_whole
from tokenizer.storage.folder import filesystem

# The label of silence. Measures treat it as a phone like any other.
SILENCE = "SIL"


@dataclass
class PhoneLabels:
    """Phone labels of utterances, at a fixed label duration.

    phones: {phone: index}. of_key: {key: (label duration in ms, (labels,) int32 indices)}.
    """

    phones: dict[str, int] = field(default_factory=dict)
    of_key: dict[str, tuple[float, np.ndarray]] = field(default_factory=dict)

    def add(self, line: str) -> None:
        """Add one JSON line. Raises ValueError that says what is wrong with it."""
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError("is not JSON") from error
        entry = entry if isinstance(entry, dict) else {}
        key, duration, names = (entry.get(name) for name in ("key", "frame_ms", "phones"))
        if not isinstance(key, str):
            raise ValueError('has no string under "key"')
        if isinstance(duration, bool) or not isinstance(duration, int | float) or not duration > 0:
            raise ValueError('has no positive number under "frame_ms"')
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError('has no list of strings under "phones"')
        if key in self.of_key:
            raise ValueError(f'has the key "{key}", as an earlier line has')
        codes = [self.phones.setdefault(name, len(self.phones)) for name in names]
        self.of_key[key] = (duration, np.array(codes, np.int32))

    def seconds_and_names(self, key: str) -> tuple[float, list[str]] | None:
        """Duration of a label in seconds, and the labels of an utterance; None if it has none."""
        if key not in self.of_key:
            return None
        milliseconds, codes = self.of_key[key]
        names = list(self.phones)
        return milliseconds / 1000, [names[code] for code in codes]


def read_phones(url: str) -> PhoneLabels:
    """Read JSON lines of {"key", "frame_ms", "phones"}, with a phone every `frame_ms` milliseconds.

    Raises UsageError when the file cannot be read or a line does not have this form.
    """
    labels = PhoneLabels()
    for number, line in enumerate(_lines(url), 1):
        if not line.strip():
            continue
        try:
            labels.add(line)
        except ValueError as error:
            remedy = 'write lines of {"key": ..., "frame_ms": 10, "phones": [...]}'
            raise UsageError(f"line {number} {error}", remedy, value=url) from error
    if not labels.of_key:
        raise UsageError("it has no labels", "give a file of JSON lines", value=url)
    return labels


def metadata_text(metadata: object, name: str) -> str:
    """A field of a sample's json member, as text: "" if there is none."""
    value = metadata.get(name) if isinstance(metadata, dict) else None
    return str(value) if isinstance(value, str | int) else ""


def read_item_file(url: str) -> list[Item]:
    """Read an ABX item file. Raises UsageError that names the line which is wrong."""
    lines = _lines(url)
    try:
        return read_items(lines)
    except ValueError as error:
        remedy = "give an item file in Libri-Light's format"
        raise UsageError(str(error), remedy, value=url) from error


def _lines(url: str) -> list[str]:
    fs, path = filesystem(url)
    try:
        return list(io.StringIO(read_whole(fs, path).decode()))
    except UnicodeDecodeError as error:
        raise UsageError("it is not UTF-8 text", "give a text file", value=url) from error
    except Exception as error:  # stores raise errors of many kinds
        problem = f"it cannot be read: {one_line(error)}"
        raise UsageError(problem, "check the path and your credentials", value=url) from error
