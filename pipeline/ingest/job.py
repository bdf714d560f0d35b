"""Sources → audio shards of similar size: plan tasks, run those that are missing, sum up."""

import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import ray

from pipeline.cluster.connect import connect
from pipeline.cluster.run_shards import run_shards
from pipeline.cluster.task_room import FixedRoom
from pipeline.ingest.cutting.cut import Segmenter
from pipeline.ingest.cutting.fixed import FixedSegmenter
from pipeline.ingest.cutting.vad import VadSegmenter
from pipeline.ingest.dedup import STAGING, find_copies, publish_without_copies
from pipeline.ingest.report import finished_tasks, gather
from pipeline.ingest.settings import VAD, IngestSettings
from pipeline.ingest.shard_task import ingest_sources
from pipeline.ingest.sources import SourceFile
from pipeline.shards.inputs import Shard
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder

# Samples are shuffled among the sources of about so many shards: what a task holds on local disk.
SHUFFLED_SHARDS = 4


def plan_tasks(sources: Iterable[SourceFile], shard_bytes: int) -> list[list[SourceFile]]:
    """Cut the sources, in order, into tasks; each ends with the source that fills a shard."""
    tasks: list[list[SourceFile]] = []
    size = shard_bytes
    for source in sources:
        if size >= shard_bytes:
            tasks.append([])
            size = 0
        tasks[-1].append(source)
        size += max(source.size, 0)
    return tasks


def open_output(output: Folder, sources: list[SourceFile], settings: IngestSettings) -> None:
    """Claim the output for these sources: write ingest.json, or check the one that is there.

    Raises UsageError when it was made from other files or with other settings.
    """
    digest = hashlib.sha256()
    plain = [
        (source.entries[0].key, source.path, source.size) for source in sources if _loose(source)
    ]
    if len(plain) == len(sources):
        # As it was written when loose files were all there was: such outputs are continued.
        digest.update(json.dumps([[list(each) for each in plain], settings.shard_bytes]).encode())
    else:
        for source in sources:
            digest.update(repr((source.kind, source.path, source.size, source.entries)).encode())
        digest.update(str(settings.shard_bytes).encode())
    made_from: dict[str, Any] = {
        "files": len(sources),
        "shard_bytes": settings.shard_bytes,
        "sha256_of_listing": digest.hexdigest(),
    }
    if decisive := settings.decisive():
        made_from["settings"] = json.loads(json.dumps(decisive))  # its tuples as lists
    before = output.claim("ingest.json", made_from)
    if before != made_from:
        raise output.refused(
            "it was made from other files or with other settings; see its ingest.json",
            "give another folder",
        )


def _loose(source: SourceFile) -> bool:
    return len(source.entries) == 1 and not source.entries[0].place


def ingest(sources: list[SourceFile], output: Folder, settings: IngestSettings) -> dict:
    """Write the shards and reports that are missing, manifest.parquet and summary.json.

    Returns the summary: totals of all reports, as `gather`, with "bytes" of the sources and
    "failed": {task name: why}. Raises UsageError as `open_output`.
    """
    open_output(output, sources, settings)
    new_segmenter = segmenter_of(settings)
    tasks = {f"shard-{number:06d}": part for number, part in enumerate(planned(sources, settings))}
    finished = set(finished_tasks(output))
    failed: dict[str, str] = {}
    if finished < tasks.keys():
        connect()
        staged = set(output.names(f"{STAGING}/reports", ".parquet")) if settings.dedup else finished

        def arguments(*, shard: Shard, **_: Any) -> dict[str, Any]:
            sources = tasks[shard.name]
            more = {"settings": settings, "new_segmenter": new_segmenter}
            return {"output": output.url, "sources": sources, **more}

        failed = _run("ingest", tasks, done=staged, function=ingest_sources, arguments=arguments)
        if settings.dedup and not failed:
            failed = _publish_without_copies(output, tasks, finished)
        output.sweep()
    if settings.dedup and not failed:
        _remove_staging(output)
    totals = gather(output)
    total = sum(max(source.size, 0) for source in sources)
    summary = {**totals, "bytes": total, "failed": failed}
    output.publish_text(json.dumps(summary, indent=2) + "\n", "summary.json")
    return summary


def planned(sources: list[SourceFile], settings: IngestSettings) -> list[list[SourceFile]]:
    """The sources of each task: of one shard; or, where they are shuffled, of several."""
    if settings.shuffle is None:
        return plan_tasks(sources, settings.shard_bytes)
    sources = list(sources)
    random.Random(settings.shuffle).shuffle(sources)
    return plan_tasks(sources, SHUFFLED_SHARDS * settings.shard_bytes)


def _run(
    what: str,
    tasks: dict[str, list[SourceFile]],
    *,
    done: set[str],
    function: Callable,
    arguments: Callable[..., dict[str, Any]],
) -> dict[str, str]:
    """Run the tasks that are not done; returns why some failed."""
    todo = [
        Shard(name, "", sum(max(source.size, 0) for source in part))
        for name, part in tasks.items()
        if name not in done
    ]
    if not todo:
        return {}
    return run_shards(
        what,
        todo,
        room=FixedRoom(max(1, int(ray.cluster_resources().get("CPU", 1))), num_cpus=1),
        function=function,
        arguments=arguments,
    )


def _publish_without_copies(
    output: Folder, tasks: dict[str, list[SourceFile]], finished: set[str]
) -> dict[str, str]:
    names = list(tasks)
    copies, numbers = find_copies(output, names), {name: i for i, name in enumerate(names)}

    def arguments(*, shard: Shard, **_: Any) -> dict[str, Any]:
        name = shard.name
        return {"output": output.url, "number": numbers[name], "copies": copies[name]}

    function = publish_without_copies
    return _run("dedup", tasks, done=finished, function=function, arguments=arguments)


def _remove_staging(output: Folder) -> None:
    """Remove what is left of staging/: its reports, which are needed until all is published, and
    shards of a task that was killed after its report.
    """
    for name in output.names(STAGING, ""):
        output.remove(f"{STAGING}/{name}")


def segmenter_of(settings: IngestSettings) -> Callable[[], Segmenter] | None:
    """What makes a segmenter for a recording; None where recordings stay whole."""
    if settings.segment is None:
        return None
    if settings.segment == VAD:
        if find_spec("silero_vad") is None or find_spec("onnxruntime") is None:
            raise UsageError(
                "it needs the packages silero-vad and onnxruntime",
                "pip install 'wavmill[ingest]'",
                value=settings.segment,
                argument="segment",
            )
        return functools.partial(VadSegmenter, settings)
    return functools.partial(FixedSegmenter, settings)
