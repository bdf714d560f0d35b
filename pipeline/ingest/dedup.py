"""Exact copies: of samples with the same sound, the first in input order is kept.

Sound is the same when its 16 kHz PCM is, whatever the containers. Tasks first write their shards
to staging/, with a hash for each sample. Ray then sorts the hashes by partition, so that no process
holds all of them, and each task's shards are published without its copies.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.actor import ActorHandle

from pipeline.ingest.report import OK, REJECTED, SCHEMA
from pipeline.shards.inputs import Shard
from pipeline.shards.members import KEY_AND_ENDING
from tokenizer.storage import disk
from tokenizer.storage.file_stream import FileStream
from tokenizer.storage.folder import Folder
from tokenizer.storage.retries import patiently
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tars import TarWriter, read_members

COPY = "copy"
STAGING = "staging"
# Tasks whose hashes one process reads, and about as many as one partition holds.
TASKS_AT_ONCE = 256
HASH = np.dtype([("high", "u8"), ("low", "u8"), ("task", "u4"), ("row", "u4")])
PLACE = np.dtype([("task", "u4"), ("row", "u4")])


def find_copies(output: Folder, names: list[str]) -> dict[str, ray.ObjectRef]:
    """{task name: reference to the places of copies in it and in tasks near it}.

    names: of all tasks, in input order; each has a report in staging/.
    """
    groups = [names[i : i + TASKS_AT_ONCE] for i in range(0, len(names), TASKS_AT_ONCE)]
    count = len(groups)
    remote: Any = ray.remote(num_cpus=1, num_returns=count)
    read, compare = remote(_hashes), remote(_copies)
    join: Any = ray.remote(num_cpus=1)(_joined)
    hashes = [
        _as_list(read.remote(output.url, part, first=number * TASKS_AT_ONCE, partitions=count))
        for number, part in enumerate(groups)
    ]
    copies = [
        _as_list(compare.remote(count, *(part[partition] for part in hashes)))
        for partition in range(count)
    ]
    found: dict[str, ray.ObjectRef] = {}
    for number, part in enumerate(groups):
        places = join.remote(*(partition[number] for partition in copies))
        found.update(dict.fromkeys(part, places))
    return found


def _as_list(refs: Any) -> list[ray.ObjectRef]:
    return refs if isinstance(refs, list) else [refs]


def _hashes(url: str, names: list[str], *, first: int, partitions: int) -> Any:
    """The hashes of some tasks' samples, by partition. first: the number of the first task."""
    folder, found = Folder(url), [np.zeros(0, HASH)]
    for number, name in enumerate(names, first):
        table = _staged_report(folder, name)
        # What is rejected is in no shard: a sample with the same sound is no copy of it.
        kept = pc.and_(pc.equal(table["status"], OK), pc.is_valid(table["sound"]))
        rows, sounds = np.flatnonzero(kept), table["sound"].filter(kept).to_pylist()
        part = np.zeros(len(rows), HASH)
        part["high"] = [int(sound[:16], 16) for sound in sounds]
        part["low"] = [int(sound[16:], 16) for sound in sounds]
        part["task"], part["row"] = number, rows
        found.append(part)
    hashes = np.concatenate(found)
    parts = [hashes[hashes["low"] % partitions == each] for each in range(partitions)]
    return parts[0] if partitions == 1 else parts


def _copies(groups: int, *parts: np.ndarray) -> Any:
    """The places of all but the first of equal hashes, by groups of tasks."""
    hashes = np.concatenate(parts)
    hashes = hashes[np.lexsort([hashes[each] for each in ("row", "task", "low", "high")])]
    same = (hashes["high"][1:] == hashes["high"][:-1]) & (hashes["low"][1:] == hashes["low"][:-1])
    copies = hashes[1:][same]
    places = np.zeros(len(copies), PLACE)
    places["task"], places["row"] = copies["task"], copies["row"]
    found = [places[places["task"] // TASKS_AT_ONCE == each] for each in range(groups)]
    return found[0] if groups == 1 else found


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _staged_report(folder: Folder, name: str) -> pa.Table:
    data = folder.read_bytes(f"{STAGING}/reports/{name}.parquet")
    return pq.read_table(io.BytesIO(data))


def publish_without_copies(
    shard: Shard, board: ActorHandle, *, output: str, number: int, copies: np.ndarray
) -> None:
    """Publish the shards of a task without its copies, and then its report; runs as a Ray task.

    number: of the task. copies: places, of this task and others.
    """
    folder = Folder(output)
    table = _staged_report(folder, shard.name)
    rows = copies["row"][copies["task"] == number]
    dropped = np.zeros(table.num_rows, bool)
    dropped[rows] = True
    keys: dict[str, set[str]] = {}
    kept: set[str] = set()
    names, shards = table["key"].to_pylist(), table["shard"].to_pylist()
    for key, name, drop in zip(names, shards, dropped.tolist(), strict=True):
        if name is not None and drop:
            keys.setdefault(name, set()).add(key)
        elif name is not None:
            kept.add(name)
    for name in sorted({name for name in shards if name is not None}):
        staged = f"{STAGING}/{name}.part"
        if name not in kept:
            continue
        if name in keys:
            _rewrite(folder, name, keys[name])
        else:
            _move(folder, staged, f"{name}.tar")
    with scratch_folder() as scratch:
        path = scratch / "report.parquet"
        pq.write_table(_marked(table, dropped), path)
        folder.publish(path, f"reports/{shard.name}.parquet")
    for name in sorted(keys):
        folder.remove(f"{STAGING}/{name}.part")
    board.write.remote(shard.name, shard.size, 0.0)


def _move(folder: Folder, name: str, to: str) -> None:
    """Give a file another name, unless an earlier try has done so."""
    if not patiently(folder.fs.exists, folder.path(name)):
        return
    if folder.local:
        os.replace(folder.path(name), folder.path(to))
        disk.sync(Path(folder.root))
        return
    patiently(folder.fs.copy, folder.path(name), folder.path(to))
    folder.remove(name)


def _rewrite(folder: Folder, name: str, left_out: set[str]) -> None:
    """Publish a staged shard without the members of these keys."""
    staged = folder.path(f"{STAGING}/{name}.part")
    with scratch_folder() as scratch, FileStream(folder.fs, staged) as stream:
        tar = TarWriter(scratch / "shard.tar")
        for info, content in read_members(stream):
            match = KEY_AND_ENDING.match(info.name)
            if content is not None and (match is None or match[1] not in left_out):
                tar.add_file(info.name, content, info.size)
        tar.close()
        folder.publish(scratch / "shard.tar", f"{name}.tar")


def _marked(table: pa.Table, dropped: np.ndarray) -> pa.Table:
    """The report, with the copies rejected."""
    mask = pa.array(dropped)
    changes = {"status": REJECTED, "reason": COPY, "shard": pa.scalar(None, pa.string())}
    for name, value in changes.items():
        column = pc.if_else(mask, value, table[name].combine_chunks())
        table = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
    return table
