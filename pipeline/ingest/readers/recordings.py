"""A source as a stream of recordings: each one audio file, open, and what is wanted of it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from pipeline.ingest.sources import MISSING_FILE, Entry, SourceFile
from pipeline.shards.inputs import Shard
from pipeline.shards.metadata import LARGEST_JSON
from pipeline.shards.reading import InputChanged, open_shard
from pipeline.shards.samples import LARGEST_AUDIO, MOST_BESIDE, SPOOL_BYTES, TOO_LARGE
from tokenizer.storage.file_stream import read_whole
from tokenizer.storage.folder import filesystem
from tokenizer.storage.retries import patiently


@dataclass
class OpenRecording:
    """One audio file of a source.

    path: of it, for records. is_source: whether the file is a source, and not a part of one.
    ending: of its name, such as "flac". audio: seekable, closed when the next recording is asked
    for; None where `problem` says why there is none. size: in bytes. beside: {ending: content} of
    what shares its name. left_beside: endings left out, as too large.
    """

    path: str
    ending: str
    entries: tuple[Entry, ...]
    audio: BinaryIO | None = None
    size: int = 0
    beside: dict[str, bytes] = field(default_factory=dict)
    left_beside: list[str] = field(default_factory=list)
    problem: str | None = None
    is_source: bool = True


def read_audio_file(source: SourceFile) -> Iterator[OpenRecording]:
    """The one recording of an audio file.

    A file that is not there, and one that is too large, come with their problem. Raises OSError
    where the store fails, and InputChanged for a file that changes while it is read.
    """
    ending = source.path.rpartition(".")[2].lower()
    recording = OpenRecording(source.path, ending, source.entries, problem=source.problem)
    if recording.problem is None and source.size > LARGEST_AUDIO:
        recording.problem = TOO_LARGE
    if recording.problem is not None:
        yield recording
        return
    try:
        with local_copy(source) as (audio, size):
            recording.audio, recording.size = audio, size
            _read_beside(recording, source)
            yield recording
    except FileNotFoundError:
        if recording.audio is not None:
            raise
        recording.problem = MISSING_FILE
        yield recording


@contextmanager
def local_copy(source: SourceFile) -> Iterator[tuple[BinaryIO, int]]:
    """(a file's content, its size), in memory or on the local disk: read once, whole.

    Raises OSError where the store fails, and InputChanged for a file that changes meanwhile.
    """
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as copy:
        with open_shard(Shard(source.path, source.url, source.size)) as stream:
            if -1 < source.size != stream.size:
                raise InputChanged(f"{stream.url} changed after it was listed")
            while block := stream.read(1 << 20):
                copy.write(block)
            stream.check()
        copy.seek(0)
        yield cast(BinaryIO, copy), stream.bytes_read


def _read_beside(recording: OpenRecording, source: SourceFile) -> None:
    room = MOST_BESIDE
    for ending, url in source.beside.items():
        fs, path = filesystem(url)
        size = patiently(fs.info, path).get("size") or 0
        if size > (LARGEST_JSON if ending == "json" else room):
            recording.left_beside.append(ending)
            continue
        recording.beside[ending] = read_whole(fs, path)
        room -= 0 if ending == "json" else size
