"""The status of every input sample: a report for each shard, and all reports in one table.

A report is a Parquet file with a row per input sample, in order. Its schema's metadata holds what
is of the whole shard: whether the tar was incomplete, and how often each code was used.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.shards import samples
from pipeline.shards.inputs import Shard
from tokenizer.audio import reasons as audio
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.token_folder import damage_of_report, finished_shards, read_report

# Every reason a row can have, and what it means. A test holds the documentation to this list.
REASONS = {
    audio.NOT_AUDIO: "the audio member cannot be decoded as audio",
    audio.TRUNCATED: "the audio ends before its header, or its last page, says it does, or a part "
    "of it is missing",
    audio.EMPTY: "the audio has no samples",
    audio.NOT_FINITE: "a sample is NaN or infinite",
    audio.TOO_SHORT: "under 400 samples at 16 kHz: not one frame",
    audio.TOO_LONG: "longer than the maximum duration",
    audio.TOO_MANY_CHANNELS: "over 64 channels",
    audio.CHANNELS_CANCEL: "channels of opposite phase: mixed to mono, over 2 % of their "
    "energy is gone",
    audio.UNCLAIMED: "over 1 % more bytes than the header claims, which may be audio",
    audio.UNCHECKED: "a container that does not tell whether all of its audio is there",
    audio.NEEDS_AV: "it takes a decoder that is not installed: pip install 'wavmill[media]'",
    samples.TOO_LARGE: "an audio member of over 6 GB",
    samples.NO_AUDIO: "no audio member (flac, wav, m4a and others) under this key",
    samples.TWO_AUDIOS: "more than one audio member under this key",
    samples.DUPLICATE_KEY: "the key was seen before in the shard",
    samples.BAD_NAME: "an absolute name, one with '..' or a control character, not UTF-8, or "
    "without a key",
    samples.BROKEN_TAR: "the tar is cut or damaged here; what follows could not be read",
}

SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("duration_s", pa.float64()),
        ("num_tokens", pa.int64()),
    ]
)


@dataclass
class ShardReport:
    """One shard's rows, and the counts of its codes.

    Rows are written in the order of their places; without places, as they were added. version: of
    the input, as `version_of`. silent: how many of the tokenized are digital silence.
    """

    shard: str
    codebook_size: int
    rows: list[dict] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    incomplete: bool = False
    silent: int = 0
    version: tuple[int, str] = (-1, "")

    def __post_init__(self) -> None:
        self.code_counts = np.zeros(self.codebook_size, np.int64)

    def ok(
        self, key: str, duration_s: float, tokens: np.ndarray, *, place: int | None = None
    ) -> None:
        """Add the row of a tokenized sample. place: of its first member in the shard."""
        self.places.append(len(self.rows) if place is None else place)
        self.code_counts += np.bincount(tokens, minlength=self.codebook_size)
        row = {"reason": None, "duration_s": duration_s, "num_tokens": len(tokens)}
        self.rows.append({"shard": self.shard, "key": key, "status": "ok", **row})

    def reject(self, key: str, reason: str, *, place: int | None = None) -> None:
        """Add the row of a rejected sample. reason: one of REASONS, or of an import's."""
        self.places.append(len(self.rows) if place is None else place)
        self.incomplete |= reason == samples.BROKEN_TAR
        row = {"reason": reason, "duration_s": None, "num_tokens": 0}
        self.rows.append({"shard": self.shard, "key": key, "status": "rejected", **row})

    def write(self, path: Path) -> None:
        """Write the report to a local file."""
        metadata = {
            b"incomplete": json.dumps(self.incomplete).encode(),
            b"silent": json.dumps(self.silent).encode(),
            b"input": json.dumps(self.version).encode(),
            b"code_counts": zlib.compress(self.code_counts.tobytes()),
        }
        rows = [row for _, row in sorted(zip(self.places, self.rows), key=lambda pair: pair[0])]
        table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(metadata)
        pq.write_table(table, path)


def gather(output: Folder, write_manifest: bool, inputs: Sequence[Shard] = ()) -> dict:
    """Totals over all reports of an OUTPUT; with write_manifest also writes manifest.parquet.

    inputs: for "changed", the names of those that are not what they were when their report was
    written. Holds a few hundred reports in memory at a time. Raises UsageError for a
    damaged report.
    """
    totals = ReportTotals(_versions(inputs))
    with scratch_folder() as scratch:
        manifest = scratch / "manifest.parquet"
        with pq.ParquetWriter(manifest, SCHEMA) as writer:
            for name, table in read_reports(output):
                with damage_of_report(output, name):
                    totals.add(name, table)
                if write_manifest:
                    writer.write_table(table.replace_schema_metadata(None))
        if write_manifest:
            output.publish(manifest, "manifest.parquet")
    return totals.summary()


def is_summed_up(output: Folder, shards: int) -> bool:
    """Whether the summary.json of an OUTPUT is of so many shards; not if it is damaged."""
    try:
        summary = json.loads(output.read_text("summary.json") or "null")
        return summary["shards"] == shards
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def changed_inputs(output: Folder, shards: Sequence[Shard]) -> list[str]:
    """Names of the shards whose input is not what it was when their report was written."""
    versions = _versions(shards)
    names = [name for name in finished_shards(output) if name in versions]

    def changed(name: str) -> bool:
        table = read_report(output, name)
        with damage_of_report(output, name):
            return _is_other(table.schema.metadata or {}, versions.get(name))

    with ThreadPoolExecutor(16) as pool:
        return [name for name, other in zip(names, pool.map(changed, names)) if other]


def _versions(shards: Sequence[Shard]) -> dict[str, tuple[int, str]]:
    return {shard.name: (shard.size, shard.version) for shard in shards if shard.version}


def _is_other(metadata: dict[bytes, bytes], version: tuple[int, str] | None) -> bool:
    """Whether a report was made of another version of its input; not if either is unknown."""
    size, mark = json.loads(metadata.get(b"input", b'[-1, ""]'))
    return bool(mark) and version is not None and (size, mark) != version


def read_reports(output: Folder, at_once: int = 256) -> Iterator[tuple[str, pa.Table]]:
    """(shard name, report) of every report, sorted by name; a slow store is asked in parallel.

    at_once: reports that are in memory at a time. Raises UsageError for a damaged report.
    """
    names = finished_shards(output)

    def read(name: str) -> pa.Table:
        table = read_report(output, name)
        with damage_of_report(output, name):
            if not table.schema.equals(SCHEMA):
                raise ValueError(f"its columns are {', '.join(table.column_names)}")
        return table

    with ThreadPoolExecutor(16) as pool:
        for first in range(0, len(names), at_once):
            part = names[first : first + at_once]
            yield from zip(part, pool.map(read, part), strict=True)


class ReportTotals:
    """The totals of an OUTPUT's reports, which are added one by one.

    code_counts: (K,) how often each code was used; () before the first report.
    """

    def __init__(self, versions: dict[str, tuple[int, str]]) -> None:
        self.versions = versions
        self.changed: list[str] = []
        self.shards = 0
        self.status: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.incomplete: list[str] = []
        self.silent = 0
        self.seconds, self.tokens = 0.0, 0
        self.code_counts = np.zeros(0, np.int64)

    def add(self, name: str, table: pa.Table) -> None:
        """Count a shard's report, as `read_reports` gives it."""
        self.shards += 1
        metadata = table.schema.metadata or {}
        if _is_other(metadata, self.versions.get(name)):
            self.changed.append(name)
        self.silent += json.loads(metadata.get(b"silent", b"0"))
        if json.loads(metadata[b"incomplete"]):
            self.incomplete.append(name)
        counts = np.frombuffer(zlib.decompress(metadata[b"code_counts"]), np.int64)
        self.code_counts = counts if not len(self.code_counts) else self.code_counts + counts
        self.status.update(table["status"].to_pylist())
        self.reasons.update(reason for reason in table["reason"].to_pylist() if reason)
        self.seconds += pc.sum(table["duration_s"]).as_py() or 0.0
        self.tokens += pc.sum(table["num_tokens"]).as_py() or 0

    def summary(self) -> dict:
        """The totals as summary.json has them."""
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
        }
