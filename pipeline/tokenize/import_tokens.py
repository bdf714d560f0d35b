"""JSON lines of {key, units} → token shards, as jobs/tokenize.py writes them but of no tokenizer.

What SpidR, GSLM and SlamKit users have: discrete units of somebody's encoder, one utterance a line.
One process reads all lines in order and cuts them into shards, so the same lines give the same
bytes. A line that cannot be taken has its row in the report, like any sample that is rejected.
"""

import gzip
import hashlib
import io
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.cluster.progress import LOG_SECONDS, REFRESH_SECONDS
from pipeline.settings import MOST_CODES, ImportSettings
from pipeline.shards.reading import READ_AHEAD_BYTES
from pipeline.shards.report import ShardReport, gather
from pipeline.shards.samples import BAD_NAME, DUPLICATE_KEY, TarWriter
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import Folder, filesystem

ENDINGS = (".jsonl", ".jsonl.gz")

NOT_JSON = "not_json"
NO_KEY = "no_key"
NO_UNITS = "no_units"
NOT_INTEGERS = "units_not_integers"
NEGATIVE = "negative_unit"
OVER_CODEBOOK = "unit_over_codebook"
BROKEN_FILE = "broken_file"

# Every reason a line can have to be rejected, and what it means.
IMPORT_REASONS = {
    NOT_JSON: "the line is no JSON object",
    NO_KEY: 'no "key", or one that is neither text nor a whole number',
    NO_UNITS: 'no "units", or none in it',
    NOT_INTEGERS: '"units" is no list of whole numbers',
    NEGATIVE: "a unit is under zero",
    OVER_CODEBOOK: "a unit is not under the codebook size (where none is given: under 1,048,576)",
    DUPLICATE_KEY: "the key was seen before",
    BAD_NAME: "the key is an absolute path, has '..' or control characters, or is no UTF-8",
    BROKEN_FILE: "the file is cut or damaged here; what follows could not be read",
}


def import_tokens(
    files: dict[str, tuple[str, int]], output: Folder, settings: ImportSettings
) -> dict:
    """Write what is missing of the token shards, then manifest.parquet and summary.json.

    files: {path: (url, bytes)}, as `find_files` gives them. Returns the summary, with "this_run"
    None where nothing was missing. Raises UsageError when OUTPUT holds another import, or no line
    has units.
    """
    size = _codebook_size(files, output, settings)
    output.claim_run(
        "run.json",
        {
            "tokenizer": None,
            "settings": asdict(settings),
            "inputs": {path: size for path, (_, size) in files.items()},
            "codebook_size": size,
            "tokens_per_second": settings.tokens_per_second,
        },
    )
    finished = set(output.names("reports", ".parquet"))
    last = output.read_text("summary.json")
    if last and json.loads(last)["shards"] == len(finished):
        output.sweep()
        return {**gather(output, write_manifest=False), "this_run": None}
    started, written = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        shards = _Shards(output, settings, size=size, finished=finished, scratch=Path(scratch))
        seen: set[int] = set()
        for where, line in _lines("import", files):
            shards.take(*_utterance(where, line, size=size, seen=seen))
        written = shards.finish()
    run = {"shards": written, "seconds": time.monotonic() - started}
    summary = {**gather(output, write_manifest=True), "this_run": run}
    output.publish_text(json.dumps(summary, indent=2) + "\n", "summary.json")
    output.sweep()
    return summary


def _codebook_size(files: dict, output: Folder, settings: ImportSettings) -> int:
    """What was asked for, that of the import in OUTPUT, or one more than the largest unit."""
    if settings.codebook_size:
        return settings.codebook_size
    try:
        before = output.read_text("run.json")
        if before:
            return int(json.loads(before)["codebook_size"])
    except (ValueError, KeyError, TypeError):
        pass  # claiming the folder says what is wrong with its run.json
    except Exception as error:  # whatever a store raises, this folder cannot be used
        raise output.unusable(error) from error
    largest, seen = -1, set()
    for where, line in _lines("codebook size", files):
        _, _, units, _ = _utterance(where, line, size=MOST_CODES, seen=seen)
        if units is not None:
            largest = max(largest, int(units.max()))
    if largest < 0:
        problem, remedy = "no line of it has a key and units", 'give {"key": ..., "units": [...]}'
        raise UsageError(problem, remedy, value=" ".join(files), argument="input")
    return largest + 1


class _Shards:
    """Utterances in order → shard-000000 and so on, each published when it is full, report last."""

    def __init__(
        self, output: Folder, settings: ImportSettings, size: int, finished: set[str], scratch: Path
    ) -> None:
        """finished: shards that are there already, whose bytes these lines would give again."""
        self.output, self.settings, self.size = output, settings, size
        self.finished, self.scratch = finished, scratch
        self.number = self.written = 0
        self._begin()

    def take(self, key: str, reason: str | None, units: np.ndarray | None, more: dict) -> None:
        """One line's utterance, or why it is none. more: its other fields."""
        if self.tokens >= self.settings.shard_tokens:
            self._publish()
            self._begin()
        if reason:
            self.report.reject(key, reason)
            self.report.incomplete |= reason == BROKEN_FILE
            return
        tokens = units.astype(np.uint16 if self.size <= 1 << 16 else np.uint32)
        seconds = len(tokens) / self.settings.tokens_per_second
        about = {
            "duration_s": seconds,
            "sample_rate": SAMPLE_RATE,
            "num_tokens": len(tokens),
            "shard": self.report.shard,
            "metadata": more,
        }
        if self.tar:
            self.tar.add_tokens(key, tokens, about)
        self.report.ok(key, seconds, tokens)
        self.tokens += len(tokens)

    def finish(self) -> int:
        """Publish the last shard. Returns how many were written."""
        if self.report.rows:
            self._publish()
        elif self.tar:
            self.tar.close()
        return self.written

    def _begin(self) -> None:
        name = f"shard-{self.number:06d}"
        self.number += 1
        self.tokens = 0
        self.report = ShardReport(name, self.size)
        self.tar = None if name in self.finished else TarWriter(self.scratch / "shard.tar")

    def _publish(self) -> None:
        if self.tar is None:
            return
        self.tar.close()
        self.report.write(self.scratch / "report.parquet")
        name = self.report.shard
        self.output.publish(self.scratch / "shard.tar", f"shards/{name}.tar")
        self.output.publish(self.scratch / "report.parquet", f"reports/{name}.parquet")
        self.written += 1


def _utterance(
    where: str, line: bytes | None, size: int, seen: set[int]
) -> tuple[str, str | None, np.ndarray | None, dict]:
    """(key, None, (T,) units, other fields) of a line, or (key, reason, None, {}).

    where: stands for the key of a line that has none. seen: hashes of keys so far; 8 bytes of a
    hash, since the keys of 100,000 hours would fill gigabytes.
    """
    if line is None:
        return where, BROKEN_FILE, None, {}
    try:
        # Python's own NaN and Infinity would make the output something else than JSON.
        row = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return where, NOT_JSON, None, {}
    if not isinstance(row, dict):
        return where, NOT_JSON, None, {}
    key, units = row.pop("key", None), row.pop("units", None)
    if type(key) is int:
        key = str(key)
    if not isinstance(key, str) or not key:
        return where, NO_KEY, None, {}
    if not _is_name(key):
        return key.encode("utf-8", "backslashreplace").decode(), BAD_NAME, None, {}
    # A sample's key ends at its first dot: others become "_", as in jobs/ingest.py.
    folder, slash, name = key.rpartition("/")
    if "." in name:
        row["key"] = key
        key = folder + slash + (name.replace(".", "_"))
    if units is None or units == []:
        return key, NO_UNITS, None, {}
    if not isinstance(units, list) or set(map(type, units)) != {int}:
        return key, NOT_INTEGERS, None, {}
    if min(units) < 0:
        return key, NEGATIVE, None, {}
    if max(units) >= size:
        return key, OVER_CODEBOOK, None, {}
    digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
    if digest in seen:
        return key, DUPLICATE_KEY, None, {}
    seen.add(digest)
    return key, None, np.array(units), row


def _is_name(key: str) -> bool:
    """Whether a tar's member can have the name, and webdataset gives it back as it is."""
    parts = key.split("/")
    return (
        key.isprintable()  # no surrogates either
        and "" not in parts
        and not any(part in (".", "..") or part.startswith("__") for part in parts)
    )


def _lines(what: str, files: dict[str, tuple[str, int]]) -> Iterator[tuple[str, bytes | None]]:
    """("PATH:NUMBER", line) of all lines that are not blank; None for one that cannot be read."""
    terminal = sys.stderr.isatty()
    with tqdm(
        total=sum(size for _, size in files.values()),
        desc=what,
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=REFRESH_SECONDS if terminal else LOG_SECONDS,
    ) as bar:
        for path, (url, size) in files.items():
            fs, source = filesystem(url)
            done = bar.n
            with fs.open(source, "rb", block_size=READ_AHEAD_BYTES, cache_type="readahead") as raw:
                packed = path.lower().endswith(".gz")
                stream = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw
                number = 0
                try:
                    for number, line in enumerate(stream, start=1):
                        bar.update(done + raw.tell() - bar.n)
                        if line.strip():
                            yield f"{path}:{number}", line
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    tqdm.write(f"{path}:{number + 1}: {one_line(error)}", file=sys.stderr)
                    yield f"{path}:{number + 1}", None
            bar.update(done + size - bar.n)
