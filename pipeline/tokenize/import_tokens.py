"""JSON lines of {key, units} → token shards, as jobs/tokenize.py writes them but of no tokenizer.

SpidR, GSLM and SlamKit write such lines: discrete units of another encoder, one utterance a line.
One process reads all lines in order and cuts them into shards, so the same lines give the same
bytes. A rejected line has its row in the report, like any rejected sample.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

from pipeline.settings import MOST_CODES, ImportSettings
from pipeline.shards.listing import InputFile
from pipeline.shards.report import ShardReport, gather, is_summed_up
from pipeline.tokenize.unit_lines import BROKEN_FILE, UnitLine, read_lines
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.token_folder import commit_shard, finished_shards
from tokenizer.storage.token_shards import TokenShardWriter


def import_tokens(files: dict[str, InputFile], output: Folder, settings: ImportSettings) -> dict:
    """Write the token shards that are missing, then manifest.parquet and summary.json.

    files: as `find_files` gives them. Returns the summary, with "this_run"
    None where nothing was missing. Raises UsageError when OUTPUT holds another import, or no line
    has units.
    """
    codebook_size = _codebook_size(files, output, settings)
    output.claim_run(
        "run.json",
        {
            "tokenizer": None,
            "settings": asdict(settings),
            "inputs": {path: file.size for path, file in files.items()},
            "codebook_size": codebook_size,
            "tokens_per_second": settings.tokens_per_second,
        },
    )
    finished = set(finished_shards(output))
    if is_summed_up(output, len(finished)):
        output.sweep()
        return {**gather(output, write_manifest=False), "this_run": None}
    started = time.monotonic()
    with scratch_folder() as scratch:
        shards = _Shards(
            output,
            settings,
            codebook_size=codebook_size,
            finished=finished,
            scratch=scratch,
        )
        for line in read_lines("import", files, codebook_size):
            shards.add(line)
        written = shards.finish()
    run = {"shards": written, "seconds": time.monotonic() - started}
    summary = {**gather(output, write_manifest=True), "this_run": run}
    output.publish_text(json.dumps(summary, indent=2) + "\n", "summary.json")
    output.sweep()
    return summary


def _codebook_size(files: dict[str, InputFile], output: Folder, settings: ImportSettings) -> int:
    """What was asked for, what the import in OUTPUT has, or the largest unit plus one."""
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
    lines = read_lines("codebook size", files, MOST_CODES)
    largest = max((int(line.units.max()) for line in lines if not line.reason), default=-1)
    if largest < 0:
        raise UsageError(
            "no line of it has a key and units",
            'give {"key": ..., "units": [...]}',
            value=" ".join(files),
            argument="input",
        )
    return largest + 1


class _Shards:
    """Utterances in order → shard-000000 and so on, each published when full, its report last."""

    def __init__(
        self,
        output: Folder,
        settings: ImportSettings,
        *,
        codebook_size: int,
        finished: set[str],
        scratch: Path,
    ) -> None:
        """finished: names of shards that are there already; these lines would give the same bytes.

        scratch: a local folder.
        """
        self.output, self.settings, self.codebook_size = output, settings, codebook_size
        self.finished, self.scratch = finished, scratch
        self.number = self.written = 0
        self._begin()

    def add(self, line: UnitLine) -> None:
        """Add one line's utterance, or its rejection."""
        if self.tokens >= self.settings.shard_tokens:
            self._publish()
            self._begin()
        if line.reason:
            self.report.reject(line.key, line.reason)
            self.report.incomplete |= line.reason == BROKEN_FILE
            return
        seconds = len(line.units) / self.settings.tokens_per_second
        if self.tar:
            self.tar.add(
                line.key,
                line.units,
                duration_s=seconds,
                sample_rate=SAMPLE_RATE,
                metadata=line.metadata,
            )
        self.report.ok(line.key, seconds, line.units)
        self.tokens += len(line.units)

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
        self.report = ShardReport(name, self.codebook_size)
        self.tar = None
        if name not in self.finished:
            path = self.scratch / "shard.tar"
            self.tar = TokenShardWriter(path, shard=name, codebook_size=self.codebook_size)

    def _publish(self) -> None:
        if self.tar is None:
            return
        self.tar.close()
        report = self.scratch / "report.parquet"
        self.report.write(report)
        commit_shard(self.output, self.report.shard, tar=self.scratch / "shard.tar", report=report)
        self.written += 1
