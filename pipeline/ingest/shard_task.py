"""The task of ingest: a group of sources → audio shards and a report, the report last."""

from collections.abc import Callable, Iterator

import pyarrow as pa
from ray.actor import ActorHandle

from pipeline.ingest.cutting.cut import Segmenter
from pipeline.ingest.packer import Packer
from pipeline.ingest.readers.parquet import read_parquet
from pipeline.ingest.readers.recordings import OpenRecording, read_audio_file
from pipeline.ingest.readers.tars import read_tar
from pipeline.ingest.report import IngestReport
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.shard_writer import ShardWriter
from pipeline.ingest.sources import PARQUET, TAR, SourceFile
from pipeline.shards.inputs import Shard
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder

BROKEN_TABLE = "broken_table"


def ingest_sources(
    shard: Shard,
    board: ActorHandle,
    *,
    output: str,
    sources: list[SourceFile],
    settings: IngestSettings,
    new_segmenter: Callable[[], Segmenter] | None = None,
) -> float:
    """Make the shards of a group of sources, and then their report; runs as a Ray task.

    Returns the seconds of audio that were decoded. A task that dies before its report has finished
    nothing, and one that runs twice writes the same bytes twice.
    """
    folder = Folder(output)
    report = IngestReport()
    with scratch_folder() as scratch:
        shards = ShardWriter(folder, scratch, name=shard.name, shard_bytes=settings.shard_bytes)
        packer = Packer(shards, report, settings=settings, new_segmenter=new_segmenter)
        done = 0
        for source in sources:
            _pack(source, packer)
            done += max(source.size, 0)
            board.write.remote(shard.name, done, packer.seconds)
        shards.publish()
        path = scratch / "report.parquet"
        report.write(path)
        folder.publish(path, f"reports/{shard.name}.parquet")
    return packer.seconds


def _pack(source: SourceFile, packer: Packer) -> None:
    before, reason = packer.samples, None
    try:
        for recording in _recordings(source, packer):
            packer.take(recording)
    except pa.ArrowInvalid:
        reason = BROKEN_TABLE
    packer.end_source(source, packer.samples - before, reason)


def _recordings(source: SourceFile, packer: Packer) -> Iterator[OpenRecording]:
    if source.kind == PARQUET:
        return read_parquet(source)
    if source.kind == TAR:
        return read_tar(source, packer.late, packer.report.left_beside)
    return read_audio_file(source)
