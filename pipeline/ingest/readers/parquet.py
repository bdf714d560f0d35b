"""Parquet tables with a column of audio, as Hugging Face's `datasets` writes them.

The column is a struct of `bytes` and `path`, or plain bytes. Rows are read a few at a time.
"""

import io
import posixpath
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.manifests.places import AudioPlaces, Listings
from pipeline.ingest.readers.recordings import OpenRecording, local_copy, read_audio_file
from pipeline.ingest.sources import (
    AUDIO,
    BAD_LINE,
    DUPLICATE_KEY,
    MISSING_FILE,
    Entry,
    SourceFile,
    as_json,
    key_of,
)
from pipeline.shards.samples import NO_AUDIO
from tokenizer.audio.containers.find import SOUND_ENDINGS

# The table is damaged, as far as it could be read.
BROKEN_TABLE = "broken_table"
# Rows decoded at once; a row's audio is up to some megabytes.
ROWS_AT_ONCE = 8
AUDIO_COLUMNS = ("audio", "speech", "wav", "flac", "mp3", "sound", "recording")
# How a file begins, where its row does not say what it is called.
MAGIC = {b"fLaC": "flac", b"RIFF": "wav", b"OggS": "ogg", b"ID3": "mp3", b"\xff\xfb": "mp3"}
LONGEST_MAGIC = max(map(len, MAGIC))


def audio_column(schema: pa.Schema) -> str | None:
    """The column that holds audio; None of a table that has none."""

    def holds_audio(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return {"bytes", "path"} <= {field.name for field in kind}
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    found = [field.name for field in schema if holds_audio(field.type)]
    usual = [name for name in AUDIO_COLUMNS if name in found]
    return (usual or found or [None])[0]


class BrokenTable(Exception):
    """A table that cannot be read any further. reason: BROKEN_TABLE or NO_AUDIO."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_parquet(source: SourceFile) -> Iterator[OpenRecording]:
    """The recordings of a table, a row each, in order.

    A key is the name of the row's file, or the row's number, below the source's prefix; the other
    columns are its metadata. Raises BrokenTable where the table is damaged or has no audio, OSError
    where the store fails, and InputChanged for a file that changes while it is read.
    """
    places = AudioPlaces(source.url, Listings(), source.audio_root)
    seen: set[str] = set()
    # From a copy, an error of the reader is the table's, and none of the store's.
    with local_copy(source) as (file, _):
        for number, (value, more) in enumerate(_rows(file)):
            yield from _recordings_of(
                source, number, value=value, more=more, seen=seen, places=places
            )


def _rows(file: BinaryIO) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(value of the column of audio, the other columns) of each row."""
    try:
        table = pq.ParquetFile(file, pre_buffer=False)
        column = audio_column(table.schema_arrow)
        if column is None:
            raise BrokenTable(NO_AUDIO)
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group]):
                audio = batch.column(column).to_pylist()
                yield from zip(audio, batch.drop_columns([column]).to_pylist(), strict=True)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        of_disk = isinstance(error, OSError) and error.errno is not None
        if of_disk or isinstance(error, MemoryError):
            raise
        raise BrokenTable(BROKEN_TABLE) from error


def _recordings_of(
    source: SourceFile,
    number: int,
    *,
    value: Any,
    more: dict[str, Any],
    seen: set[str],
    places: AudioPlaces,
) -> Iterator[OpenRecording]:
    """The one recording of a row: of its bytes, or of the file that it names."""
    place = f"{source.path}:{number}"
    name, data, file = "", value, None
    if isinstance(value, dict):
        name, data = value.get("path") or "", value.get("bytes")
    problem = None if isinstance(value, (bytes, dict)) else BAD_LINE
    if problem is None and data is None:
        file, problem = _named_file(places, name)
    stem, ending = posixpath.splitext(posixpath.basename(name))
    try:
        key = key_of(stem) if stem else f"{number:08d}"
    except ValueError:
        key = f"{number:08d}"
    key = posixpath.join(source.prefix, key)
    if key in seen:
        problem = problem or DUPLICATE_KEY
    seen.add(key)
    entry = Entry(key=key, metadata=as_json(_plain(more)), place=place, problem=problem)
    if file is not None and problem is None:
        for recording in read_audio_file(replace(file, entries=(entry,))):
            recording.path, recording.is_source = source.path, False
            if recording.audio is not None:
                recording.ending = _ending(ending, recording.audio.read(LONGEST_MAGIC))
                recording.audio.seek(0)
            yield recording
        return
    recording = OpenRecording(
        source.path, _ending(ending, data), (entry,), problem=problem, is_source=False
    )
    if problem is None:
        recording.audio, recording.size = io.BytesIO(data), len(data)
    yield recording


def _named_file(places: AudioPlaces, name: str) -> tuple[SourceFile | None, str | None]:
    """(file, None) that a row names, or (None, why it cannot be read)."""
    if not name:
        return None, MISSING_FILE
    place = places.find(name)
    if place.problem is not None:
        return None, place.problem
    if places.listings.info(place.url) is None:
        return None, MISSING_FILE
    size, version = places.listings.version(place.url)
    file = SourceFile(kind=AUDIO, path=place.name, url=place.url, size=size, version=version)
    return file, None


def _ending(ending: str, data: bytes | None) -> str:
    ending = ending[1:].lower()
    if ending in SOUND_ENDINGS:
        return ending
    begins = data or b""
    return next((kind for magic, kind in MAGIC.items() if begins.startswith(magic)), "wav")


def _plain(value: Any) -> Any:
    """A value as JSON takes it: bytes are left out, times are text."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if not isinstance(each, bytes)}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
