"""What became of every source and every sample: a report for each task, and all in one table.

A report is a Parquet file below reports/, written when the shards of its task are there. It has one
row a source; and one a sample, where a sample is not simply a source's file.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.token_folder import damage_of_report

SOURCE, SAMPLE = "source", "sample"
OK, REJECTED = "ok", "rejected"
# Values that filters measure, in the units that they have in a row.
MEASURES = ("clipped", "silence", "bandwidth_hz", "snr_db", "dnsmos")
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("source", pa.string()),
        ("place", pa.string()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("samples", pa.int64()),
        *((name, pa.float64()) for name in MEASURES),
        ("sound", pa.string()),
    ]
)
# Reports are merged this many rows at a time, and so many are read at once: what is in memory does
# not grow with their number.
ROW_GROUP = 1 << 14
REPORTS_AT_ONCE = 16


class IngestReport:
    """The rows of one task, with the columns of SCHEMA; what is not given is null."""

    def __init__(self) -> None:
        self._columns: dict[str, list] = {name: [] for name in SCHEMA.names}
        self.left_beside: Counter[str] = Counter()
        # Of recordings that were cut: spans that are in no segment, by field or ending.
        self.spans_left: Counter[str] = Counter()

    def add(self, kind: str, **row: object) -> None:
        """Add a row; its status is "rejected" where it has a reason."""
        row = {**row, "kind": kind, "status": REJECTED if row.get("reason") else OK}
        for name, column in self._columns.items():
            column.append(row.get(name))

    def write(self, path: Path, shards: dict[str, str]) -> None:
        """Write the report to a local file. shards: {key: name of the shard that holds it}."""
        self._columns["shard"] = [
            None if reason else shards.get(key)
            for key, reason in zip(self._columns["key"], self._columns["reason"], strict=True)
        ]
        metadata = {b"left_beside": json.dumps(self.left_beside).encode()}
        if self.spans_left:
            metadata[b"spans_left"] = json.dumps(self.spans_left).encode()
        table = pa.table(self._columns, schema=SCHEMA).replace_schema_metadata(metadata)
        pq.write_table(table, path)


def finished_tasks(output: Folder) -> list[str]:
    """Names of the tasks of an output that have a report, sorted."""
    return output.names("reports", ".parquet")


def gather(output: Folder) -> dict:
    """Write manifest.parquet, all reports in one table; returns totals over them.

    Raises UsageError for a damaged report.
    """
    totals = Counter[str]()
    reasons: Counter[str] = Counter()
    left: dict[str, Counter[str]] = {"left_beside": Counter(), "spans_left": Counter()}
    seconds = 0.0
    with scratch_folder() as scratch:
        manifest = scratch / "manifest.parquet"
        with pq.ParquetWriter(manifest, SCHEMA) as writer:
            rows, count = [], 0
            for table in _read_reports(output):
                metadata = table.schema.metadata or {}
                for name, counts in left.items():
                    counts.update(json.loads(metadata.get(name.encode(), b"{}")))
                table = table.replace_schema_metadata(None)
                of_sources = table.filter(pc.equal(table["kind"], SOURCE))
                totals["sources"] += of_sources.num_rows
                rejected = of_sources.filter(pc.is_valid(of_sources["reason"]))
                totals["sources_rejected"] += rejected.num_rows
                # A loose file's row is its sample's too, and has its key.
                samples = table.filter(pc.is_valid(table["key"]))
                found = pc.value_counts(samples["reason"].drop_null())
                reasons.update(dict(zip(*(part.to_pylist() for part in found.flatten()))))
                kept = samples.filter(pc.is_valid(samples["shard"]))
                seconds += pc.sum(kept["duration_s"]).as_py() or 0.0
                totals["ok"] += kept.num_rows
                rows.append(table)
                count += table.num_rows
                if count >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(rows), row_group_size=count)
                    rows, count = [], 0
            if rows:
                writer.write_table(pa.concat_tables(rows), row_group_size=max(count, 1))
        output.publish(manifest, "manifest.parquet")
    return {
        "sources": totals["sources"],
        "sources_rejected": totals["sources_rejected"],
        "samples": totals["ok"] + reasons.total(),
        "ok": totals["ok"],
        "rejected": reasons.total(),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "audio_hours": seconds / 3600,
        **{name: dict(sorted(counts.items())) for name, counts in left.items()},
    }


def _read_reports(output: Folder) -> Iterator[pa.Table]:
    """Every report, sorted by name; a slow store is asked in parallel."""
    names = finished_tasks(output)

    def read(name: str) -> pa.Table:
        data = output.read_bytes(f"reports/{name}.parquet")
        with damage_of_report(output, name):
            table = pq.read_table(io.BytesIO(data))
            if not table.schema.equals(SCHEMA):
                raise ValueError(f"its columns are {', '.join(table.column_names)}")
        return table

    with ThreadPoolExecutor(REPORTS_AT_ONCE) as pool:
        for first in range(0, len(names), REPORTS_AT_ONCE):
            yield from pool.map(read, names[first : first + REPORTS_AT_ONCE])
