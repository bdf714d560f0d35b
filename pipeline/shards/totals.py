"""Totals over many reports: read in parts, by Ray tasks where Ray runs and else in this process."""

import json
import sys
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.cluster.code import check_code, fingerprint
from pipeline.shards.inputs import Shard
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_folder import damage_of_report, finished_shards, read_report

# Reports that are read and summed up together.
REPORTS_IN_PART = 256
# Parts that are read at once by Ray tasks: what they give is in memory until its turn comes.
MOST_PARTS = 64
# Requests at once of one process to a slow store.
THREADS = 16
# Rows of the manifest that are compressed together. Readers hold one such group, of some 100 MB;
# a group for each of 100,000 shards makes a footer of 60 MB, which every reader has to hold whole.
GROUP_ROWS = 1 << 20

# What is counted of what lies beside the audio: members of each ending that were left out; spans of
# each field, and those that could not be placed.
COMPANIONS = ("left_beside", "spans", "span_errors")

Versions = dict[str, tuple[int, str]]


def versions_of(shards: Sequence[Shard]) -> Versions:
    """{name: (size, version)} of the shards whose version is known."""
    return {shard.name: (shard.size, shard.version) for shard in shards if shard.version}


def is_other(metadata: dict[bytes, bytes], version: tuple[int, str] | None) -> bool:
    """Whether a report was made of another version of its input; not if either is unknown."""
    size, mark = json.loads(metadata.get(b"input", b'[-1, ""]'))
    return bool(mark) and version is not None and (size, mark) != version


@dataclass
class Totals:
    """Sums over reports, and the names of the shards that are incomplete or have changed."""

    shards: int = 0
    silent: int = 0
    tokens: int = 0
    seconds: float = 0.0
    changed: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    code_counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    companions: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in COMPANIONS}
    )

    def add_report(self, name: str, table: pa.Table, version: tuple[int, str] | None) -> None:
        """One report. version: of the shard's input now. Raises what damage makes it raise."""
        metadata = table.schema.metadata or {}
        if is_other(metadata, version):
            self.changed.append(name)
        if json.loads(metadata[b"incomplete"]):
            self.incomplete.append(name)
        counts = np.frombuffer(zlib.decompress(metadata[b"code_counts"]), np.int64)
        self.code_counts = counts if not len(self.code_counts) else self.code_counts + counts
        self.shards += 1
        self.silent += json.loads(metadata.get(b"silent", b"0"))
        self.seconds += pc.sum(table["duration_s"]).as_py() or 0.0
        self.tokens += pc.sum(table["num_tokens"]).as_py() or 0
        self.status += _counts(table["status"])
        self.reasons += _counts(table["reason"])
        self._add_companions(json.loads(metadata.get(b"companions", b"{}")))

    def add(self, other: "Totals") -> None:
        """Those of later shards."""
        self.shards += other.shards
        self.silent += other.silent
        self.tokens += other.tokens
        self.seconds += other.seconds
        self.changed += other.changed
        self.incomplete += other.incomplete
        self.status += other.status
        self.reasons += other.reasons
        self._add_companions(other.companions)
        if not len(self.code_counts):
            self.code_counts = np.zeros_like(other.code_counts)
        self.code_counts = self.code_counts + other.code_counts

    def _add_companions(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        for name in COMPANIONS:
            self.companions[name].update(counts.get(name, {}))

    def summary(self) -> dict:
        """What summary.json says of the shards."""
        used = self.code_counts[self.code_counts > 0] / max(self.code_counts.sum(), 1)
        return {
            "shards": self.shards,
            "incomplete_shards": self.incomplete,
            "changed": self.changed,
            "samples": sum(self.status.values()),
            "ok": self.status["ok"],
            "silent": self.silent,
            "rejected": self.status["rejected"],
            "rejected_by_reason": dict(sorted(self.reasons.items())),
            "audio_hours": self.seconds / 3600,
            "tokens": self.tokens,
            "codebook": {
                "size": len(self.code_counts),
                "active_codes": len(used),
                "perplexity": float(np.exp(-(used * np.log(used)).sum())) if len(used) else 0.0,
            },
            **{name: dict(sorted(counts.items())) for name, counts in self.companions.items()},
        }


def _counts(column: pa.ChunkedArray) -> Counter[str]:
    """How often each value is there, without null."""
    pairs = pc.value_counts(column.drop_null())
    return Counter(dict(zip(pairs.field(0).to_pylist(), pairs.field(1).to_pylist(), strict=True)))


def read_parts(
    output: Folder, versions: Versions, schema: pa.Schema, *, reports: int = REPORTS_IN_PART
) -> Iterator[tuple[Totals, pa.Table]]:
    """Totals and rows of some hundred reports at a time, in the order of the shards' names.

    versions: of the inputs now. schema: of a report. reports: in a part. Raises UsageError for a
    damaged report.
    """
    names = finished_shards(output)
    parts = [names[i : i + reports] for i in range(0, len(names), reports)]
    ray = sys.modules.get("ray")
    if len(parts) < 2 or ray is None or not ray.is_initialized():
        for part in parts:
            yield _read_part(output, part, versions, schema=schema)
        return
    task = ray.remote(num_cpus=0.5, max_retries=3, scheduling_strategy="SPREAD")(_part_on_node)
    waiting, running = deque(parts), deque[Any]()
    while waiting or running:
        while waiting and len(running) < MOST_PARTS:
            part = waiting.popleft()
            known = {name: versions[name] for name in part if name in versions}
            here = (output.url, part, known)
            running.append(task.remote(fingerprint(), *here, schema=schema))
        totals, rows = ray.get(running.popleft())
        if isinstance(totals, UsageError):
            raise totals
        yield totals, rows


def _part_on_node(code: str, url: str, names: list[str], versions: Versions, **more: Any) -> Any:
    """As _read_part, in a Ray task: it gives a UsageError in place of the totals."""
    check_code(code)
    try:
        return _read_part(Folder(url), names, versions, **more)
    except UsageError as error:
        return error, None


def _read_part(
    output: Folder, names: list[str], versions: Versions, *, schema: pa.Schema
) -> tuple[Totals, pa.Table]:
    """Totals and rows of these reports."""
    totals, tables = Totals(), []

    def read(name: str) -> pa.Table:
        table = read_report(output, name)
        with damage_of_report(output, name):
            if not table.schema.equals(schema):
                raise ValueError(f"its columns are {', '.join(table.column_names)}")
        return table

    with ThreadPoolExecutor(THREADS) as pool:
        for name, table in zip(names, pool.map(read, names), strict=True):
            with damage_of_report(output, name):
                totals.add_report(name, table, versions.get(name))
            tables.append(table.replace_schema_metadata(None))
    # In one piece: a table of many small arrays takes longer to send and to write.
    return totals, pa.concat_tables(tables).combine_chunks()


class RowGroups:
    """A Parquet file whose row groups have GROUP_ROWS rows each, however few come at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.writer = pq.ParquetWriter(path, schema)
        self.waiting: list[pa.Table] = []
        self.rows = 0

    def __enter__(self) -> "RowGroups":
        return self

    def __exit__(self, *_: object) -> None:
        self._write(self.rows)
        self.writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self.waiting.append(table)
        self.rows += len(table)
        while self.rows >= GROUP_ROWS:
            self._write(GROUP_ROWS)

    def _write(self, rows: int) -> None:
        together = pa.concat_tables(self.waiting) if self.waiting else None
        if together is None or not rows:
            return
        self.writer.write_table(together.slice(0, rows), row_group_size=rows)
        self.waiting, self.rows = [together.slice(rows)], self.rows - rows
