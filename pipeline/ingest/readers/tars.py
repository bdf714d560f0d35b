"""Ready audio tars as sources: their samples, to be cut, filtered and packed anew."""

import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, cast

from pipeline.ingest.readers.recordings import OpenRecording
from pipeline.ingest.sources import Entry, SourceFile, as_json
from pipeline.shards.inputs import Shard
from pipeline.shards.metadata import Metadata
from pipeline.shards.reading import open_shard
from pipeline.shards.samples import read_samples


def read_tar(
    source: SourceFile, late: dict[str, Metadata], left_beside: Counter[str]
) -> Iterator[OpenRecording]:
    """The recordings of a tar, in order.

    late: is given the metadata that comes after its sample, by the sample's key in the output.
    left_beside: how many members of each ending are not kept.
    Raises OSError where the store fails, and InputChanged for a tar that changes meanwhile.
    """
    after: dict[str, Metadata] = {}
    with open_shard(Shard(source.path, source.url, source.size)) as stream:
        for sample in read_samples(stream, after, left_beside):
            key = posixpath.join(source.prefix, sample.key)
            place = f"{source.path}:{sample.place}"
            entry = Entry(key=key, metadata=_text(sample.metadata), place=place)
            recording = OpenRecording(
                source.path, sample.ending, (entry,), problem=sample.problem, is_source=False
            )
            recording.beside = sample.beside
            if sample.audio is None:
                yield recording
                continue
            with sample.audio as audio:
                recording.audio = cast(BinaryIO, audio)
                recording.size = audio.seek(0, 2)
                audio.seek(0)
                yield recording
        stream.check()
    late.update({posixpath.join(source.prefix, key): value for key, value in after.items()})


def _text(metadata: object) -> str:
    if metadata is None:
        return "{}"
    return as_json(metadata if isinstance(metadata, dict) else {"json": metadata})
