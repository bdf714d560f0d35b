"""The status of every input sample: a report for each shard, and all reports in one table.

A report is a Parquet file with a row per input sample, in order. Its schema's metadata holds what
is of the whole shard: whether the tar was incomplete, and how often each code was used.
"""

import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shards import samples
from pipeline.shards.inputs import Shard
from pipeline.shards.totals import RowGroups, Totals, is_other, read_parts, versions_of
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
    the input, as `version_of`. silent: how many of the tokenized are digital silence. companions:
    counts as `Companions.counts`, of what the samples take with them.
    """

    shard: str
    codebook_size: int
    rows: list[dict] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    incomplete: bool = False
    silent: int = 0
    version: tuple[int, str] = (-1, "")
    companions: dict[str, dict[str, int]] = field(default_factory=dict)

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
        if self.companions:
            metadata[b"companions"] = json.dumps(self.companions).encode()
        rows = [row for _, row in sorted(zip(self.places, self.rows), key=lambda pair: pair[0])]
        table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(metadata)
        pq.write_table(table, path)


def gather(output: Folder, write_manifest: bool, inputs: Sequence[Shard] = ()) -> dict:
    """Totals over all reports of an OUTPUT; with write_manifest also writes manifest.parquet.

    inputs: for "changed", the names of those that are not what they were when their report was
    written. Where Ray runs, its tasks read the reports. Holds a row group of the manifest and a few
    thousand reports in memory. Raises UsageError for a damaged report.
    """
    totals = Totals()
    with scratch_folder() as scratch:
        manifest = scratch / "manifest.parquet"
        with RowGroups(manifest, SCHEMA) as groups:
            for part, rows in read_parts(output, versions_of(inputs), SCHEMA):
                totals.add(part)
                if write_manifest:
                    groups.write(rows)
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
    versions = versions_of(shards)
    names = [name for name in finished_shards(output) if name in versions]

    def changed(name: str) -> bool:
        table = read_report(output, name)
        with damage_of_report(output, name):
            return is_other(table.schema.metadata or {}, versions.get(name))

    with ThreadPoolExecutor(16) as pool:
        return [name for name, other in zip(names, pool.map(changed, names)) if other]
