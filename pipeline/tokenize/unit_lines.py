"""JSON lines of {key, units}: read in order, each an utterance or the reason why it is rejected."""

import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.cluster.progress import bar
from pipeline.shards.listing import InputFile
from pipeline.shards.metadata import finite
from pipeline.shards.samples import BAD_NAME, DUPLICATE_KEY
from tokenizer.errors import one_line
from tokenizer.storage.file_stream import FileStream
from tokenizer.storage.folder import filesystem

ENDINGS = (".jsonl", ".jsonl.gz")

NOT_JSON = "not_json"
LINE_TOO_LONG = "line_too_long"
NO_KEY = "no_key"
NO_UNITS = "no_units"
NOT_INTEGERS = "units_not_integers"
NEGATIVE = "negative_unit"
OVER_CODEBOOK = "unit_over_codebook"
BROKEN_FILE = "broken_file"

# Every reason a line can be rejected for, and what it means.
IMPORT_REASONS = {
    NOT_JSON: "the line is no JSON object",
    LINE_TOO_LONG: "the line has over 16 MB",
    NO_KEY: 'no "key", or one that is neither text nor a whole number',
    NO_UNITS: 'no "units", or none in it',
    NOT_INTEGERS: '"units" is no list of whole numbers',
    NEGATIVE: "a unit is under zero",
    OVER_CODEBOOK: "a unit is not under the codebook size (where none is given: under 1,048,576)",
    DUPLICATE_KEY: "the key was seen before",
    BAD_NAME: "the key is an absolute path, has '..' or control characters, or is no UTF-8",
    BROKEN_FILE: "the file is cut or damaged here; what follows could not be read",
}
# A line's value takes up to 30 times the line's size in memory.
LONGEST_LINE = 16 << 20


@dataclass(frozen=True)
class UnitLine:
    """An utterance, or a rejected line.

    key: PATH:NUMBER of a line without a usable key. units: (T,) int64, empty if rejected. metadata:
    the line's other fields.
    """

    key: str
    reason: str | None = None
    units: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    metadata: dict = field(default_factory=dict)


def read_lines(what: str, files: dict[str, InputFile], codebook_size: int) -> Iterator[UnitLine]:
    """All lines that are not blank, in order, with a progress bar named `what`.

    files: as `find_files` gives them. Units must be under codebook_size.
    """
    # 8 bytes of a hash each: the keys of 100,000 hours would fill gigabytes.
    seen: set[int] = set()
    for place, line in _lines(what, files):
        if line is None:
            yield UnitLine(place, BROKEN_FILE)
        elif len(line) > LONGEST_LINE:
            yield UnitLine(place, LINE_TOO_LONG)
        else:
            yield _parse(place, line, codebook_size=codebook_size, seen=seen)


def _parse(place: str, line: bytes, *, codebook_size: int, seen: set[int]) -> UnitLine:
    """place: PATH:NUMBER of the line. seen: hashes of the keys so far."""
    try:
        # Python's json takes NaN, Infinity and 1e999, which would make the output invalid JSON.
        row = json.loads(line, parse_constant=lambda _: None, parse_float=finite)
    except (ValueError, RecursionError):
        return UnitLine(place, NOT_JSON)
    if not isinstance(row, dict):
        return UnitLine(place, NOT_JSON)
    key, units = row.pop("key", None), row.pop("units", None)
    if type(key) is int:
        key = str(key)
    if not isinstance(key, str) or not key:
        return UnitLine(place, NO_KEY)
    if not _is_name(key):
        return UnitLine(key.encode("utf-8", "backslashreplace").decode(), BAD_NAME)
    # A sample's key ends at its first dot: others become "_", as in jobs/ingest.py.
    folder, slash, name = key.rpartition("/")
    if "." in name:
        row["key"] = key
        key = folder + slash + (name.replace(".", "_"))
    if units is None or units == []:
        return UnitLine(key, NO_UNITS)
    if not isinstance(units, list) or set(map(type, units)) != {int}:
        return UnitLine(key, NOT_INTEGERS)
    if min(units) < 0:
        return UnitLine(key, NEGATIVE)
    if max(units) >= codebook_size:
        return UnitLine(key, OVER_CODEBOOK)
    digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
    if digest in seen:
        return UnitLine(key, DUPLICATE_KEY)
    seen.add(digest)
    return UnitLine(key, None, units=np.array(units), metadata=row)


def _is_name(key: str) -> bool:
    """Whether a tar member can have this name, and webdataset reads it back unchanged."""
    parts = key.split("/")
    return (
        key.isprintable()  # no surrogates either
        and "" not in parts
        and not any(part in (".", "..") or part.startswith("__") for part in parts)
    )


def _lines(what: str, files: dict[str, InputFile]) -> Iterator[tuple[str, bytes | None]]:
    """("PATH:NUMBER", line) of all lines that are not blank; None for one that cannot be read.

    Of a line over LONGEST_LINE only the beginning, which is longer than that.
    """
    total = sum(file.size for file in files.values())
    with bar(what, "B", total, unit_scale=True) as progress:
        for path, file in files.items():
            fs, source = filesystem(file.url)
            done = progress.n
            with FileStream(fs, source) as raw:
                packed = path.lower().endswith(".gz")
                plain: Any = gzip.GzipFile(fileobj=raw) if packed else raw
                stream = io.BufferedReader(plain)
                number = 0
                try:
                    for number, line in enumerate(_bounded_lines(stream), start=1):
                        progress.update(done + raw.tell() - progress.n)
                        if line.strip():
                            yield f"{path}:{number}", line
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    progress.write(f"{path}:{number + 1}: {one_line(error)}", file=sys.stderr)
                    yield f"{path}:{number + 1}", None
            progress.update(done + file.size - progress.n)


def _bounded_lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a stream, of each no more than LONGEST_LINE + 1 bytes."""
    while line := stream.readline(LONGEST_LINE + 1):
        yield line
        while len(line) > LONGEST_LINE and line[-1:] != b"\n":
            line = stream.readline(LONGEST_LINE + 1)
            if not line:
                return
