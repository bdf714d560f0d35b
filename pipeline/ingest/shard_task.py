"""The task of ingest: a group of sources → audio shards and a report, the report last."""

import random
from collections.abc import Callable, Iterator

from ray.actor import ActorHandle

from pipeline.ingest.cutting.cut import Segmenter
from pipeline.ingest.dedup import STAGING
from pipeline.ingest.packer import Packer
from pipeline.ingest.readers.parquet import BrokenTable, read_parquet
from pipeline.ingest.readers.recordings import OpenRecording, read_audio_file
from pipeline.ingest.readers.tars import read_tar
from pipeline.ingest.report import SAMPLE, IngestReport
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.shard_writer import ShardWriter
from pipeline.ingest.sources import AUDIO, PARQUET, TAR, SourceFile
from pipeline.shards.inputs import Shard
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder


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
        shards = ShardWriter(
            folder,
            scratch,
            name=shard.name,
            shard_bytes=settings.shard_bytes,
            form=f"{STAGING}/{{}}.part" if settings.dedup else "{}.tar",
            shuffle=_shuffle(settings, shard.name),
        )
        packer = Packer(shards, report, settings=settings, new_segmenter=new_segmenter)
        done = 0
        for source in sources:
            _pack(source, packer)
            done += max(source.size, 0)
            board.write.remote(shard.name, done, packer.seconds)
        shards.finish()
        path = scratch / "report.parquet"
        report.write(path, shards.names)
        reports = f"{STAGING}/reports" if settings.dedup else "reports"
        folder.publish(path, f"{reports}/{shard.name}.parquet")
    return packer.seconds


def _shuffle(settings: IngestSettings, name: str) -> random.Random | None:
    return None if settings.shuffle is None else random.Random(f"{settings.shuffle} {name}")


def _pack(source: SourceFile, packer: Packer) -> None:
    before, reason = packer.samples, None
    if source.kind != AUDIO and source.problem is not None:
        packer.end_source(source, 0, source.problem)
        return
    try:
        for recording in _recordings(source, packer):
            packer.take(recording)
    except BrokenTable as error:
        reason = error.reason
        # As behind a break of a tar: samples may be lost there, and one row stands for them.
        path = source.path
        packer.report.add(SAMPLE, source=path, place=path, key=path, reason=reason)
    packer.end_source(source, packer.samples - before, reason)


def _recordings(source: SourceFile, packer: Packer) -> Iterator[OpenRecording]:
    if source.kind == PARQUET:
        return read_parquet(source)
    if source.kind == TAR:
        return read_tar(source, packer.late, packer.report.left_beside)
    return read_audio_file(source)
