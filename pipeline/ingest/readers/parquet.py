"""Parquet tables with a column of audio, as Hugging Face's `datasets` writes them.

The column is a struct of `bytes` and `path`, or plain bytes. Rows are read a few at a time.
"""

import io
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.ingest.manifests.places import AudioPlaces, Listings
from pipeline.ingest.readers.recordings import OpenRecording
from pipeline.ingest.sources import (
    BAD_LINE,
    DUPLICATE_KEY,
    MISSING_FILE,
    Entry,
    SourceFile,
    as_json,
    key_of,
)
from tokenizer.audio.containers.find import SOUND_ENDINGS
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.file_stream import read_whole
from tokenizer.storage.folder import filesystem

# Rows decoded at once; a row's audio is up to some megabytes.
ROWS_AT_ONCE = 8
AUDIO_COLUMNS = ("audio", "speech", "wav", "flac", "mp3", "sound", "recording")
# How a file begins, where its row does not say what it is called.
MAGIC = {b"fLaC": "flac", b"RIFF": "wav", b"OggS": "ogg", b"ID3": "mp3", b"\xff\xfb": "mp3"}


def audio_column(schema: pa.Schema) -> str | None:
    """The column that holds audio; None of a table that has none."""

    def holds_audio(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return {"bytes", "path"} <= {field.name for field in kind}
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    found = [field.name for field in schema if holds_audio(field.type)]
    usual = [name for name in AUDIO_COLUMNS if name in found]
    return (usual or found or [None])[0]


def check_table(source: SourceFile) -> None:
    """Raises UsageError for a file that is no Parquet table with a column of audio."""
    fs, path = filesystem(source.url)
    try:
        with fs.open(path, "rb") as file:
            schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(
            f"it is no Parquet table: {one_line(error)}", "leave it out", value=source.url
        ) from error
    if audio_column(schema) is None:
        raise UsageError(
            f"no column of it holds audio: it has {', '.join(schema.names[:10])}",
            "give tables with a column of {bytes, path}, as `datasets` writes them",
            value=source.url,
        )


def read_parquet(source: SourceFile) -> Iterator[OpenRecording]:
    """The recordings of a table, a row each, in order.

    A key is the name of the row's file, or the row's number, below the source's prefix; the other
    columns are its metadata. Raises OSError where the store fails.
    """
    fs, path = filesystem(source.url)
    places = AudioPlaces(source.url, Listings(), source.audio_root)
    seen: set[str] = set()
    with fs.open(path, "rb") as file:
        table = pq.ParquetFile(file, pre_buffer=False)
        column = audio_column(table.schema_arrow)
        assert column is not None  # checked when the sources were found
        number = 0
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            audio = batch.column(column).to_pylist()
            others = batch.drop_columns([column]).to_pylist()
            for value, more in zip(audio, others, strict=True):
                yield _recording(source, number, value=value, more=more, seen=seen, places=places)
                number += 1


def _recording(
    source: SourceFile,
    number: int,
    *,
    value: Any,
    more: dict[str, Any],
    seen: set[str],
    places: AudioPlaces,
) -> OpenRecording:
    place = f"{source.path}:{number}"
    name, data = "", value
    if isinstance(value, dict):
        name, data = value.get("path") or "", value.get("bytes")
    problem = None if isinstance(value, (bytes, dict)) else BAD_LINE
    if problem is None and data is None:
        data, problem = _named_file(places, name)
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
    recording = OpenRecording(
        source.path, _ending(ending, data), (entry,), problem=problem, is_source=False
    )
    if problem is None:
        recording.audio, recording.size = io.BytesIO(data), len(data)
    return recording


def _named_file(places: AudioPlaces, name: str) -> tuple[bytes | None, str | None]:
    """(content, None) of a file that a row names, or (None, why it cannot be read)."""
    if not name:
        return None, MISSING_FILE
    place = places.find(name)
    if place.problem is not None:
        return None, place.problem
    try:
        fs, path = filesystem(place.url)
        return read_whole(fs, path), None
    except (FileNotFoundError, IsADirectoryError):
        return None, MISSING_FILE


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
