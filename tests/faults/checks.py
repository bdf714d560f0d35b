"""What every fault ends with: the same checks, and a row of the table.

A command is run until it is done. Each run ends by itself, with an exit status that tells the truth
and without a traceback; at the end there is one row a sample, the bytes are those of a run that
nothing disturbed, and nothing is left over.
"""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow.parquet as pq
from conftest import ONE_THREAD, SPEECH
from stores import LocalStore, S3Store

from faults import Result
from faults.runs import Command, Ended, Session, command, run

TOKENIZER = "wavlm-tiny-km256"
Store = LocalStore | S3Store


class World:
    """Inputs that all faults share, and what an undisturbed run makes of them.

    folder: for everything that is written. session: where jobs run whose fault needs no Ray of its
    own; with None each has its own. source: a folder of tars. rows: {(shard, key): row}.
    """

    def __init__(
        self, folder: Path, *, shards: int = 6, samples: int = 6, session: Session | None = None
    ) -> None:
        self.folder, self.source, self.session = folder, folder / "source", session
        self.keys = make_source(self.source, shards=shards, samples=samples)
        self.samples = shards * samples
        store = LocalStore(folder / "undisturbed")
        done = self.run(*self.flags(self.source, store.url))
        assert done.returncode == 0, done.stderr
        self.bytes, self.rows = shard_hashes(store), report_rows(store)
        assert sorted(self.rows) == sorted(self.keys)

    def flags(self, source: object, output: str) -> tuple:
        """The flags of jobs/tokenize.py."""
        where = ("--input", source, "--output", output, "--tokenizer", TOKENIZER)
        return (*where, *ONE_THREAD)

    def run(self, *flags: object) -> subprocess.CompletedProcess[str]:
        """Run jobs/tokenize.py, and wait for it."""
        return run(flags, self.session)

    def ended(self, *flags: object) -> Ended:
        """As `run`."""
        done = self.run(*flags)
        return Ended(done.returncode, done.stderr)

    def command(self, *flags: object) -> AbstractContextManager[Command]:
        """Start jobs/tokenize.py."""
        return command("tokenize", *flags, session=self.session)

    def check(self, result: Result, store: Store, runs: list["Ended"]) -> Result:
        """Fill a result after the last run of jobs/tokenize.py on `source`."""
        result.times, result.samples = len(runs), self.samples
        problems = [problem for run in runs for problem in run.problems()]
        if not runs or runs[-1].status != 0:
            problems.append(f"not done after {len(runs)} runs")
        rows = report_rows(store)
        result.rows, result.equal = len(rows), shard_hashes(store) == self.bytes
        if rows != self.rows:
            problems.append("the rows are not those of an undisturbed run")
        if not result.equal:
            problems.append("the bytes are not those of an undisturbed run")
        result.problems += [*problems, *left_over(store, self.names)]
        return result

    def names_of_tars(self) -> list[str]:
        """File names in `source`."""
        return [f"{name}.tar" for name in self.names]

    @property
    def names(self) -> list[str]:
        """Names of the shards."""
        return sorted({shard for shard, _ in self.keys})


def make_source(folder: Path, *, shards: int, samples: int) -> list[tuple[str, str]]:
    """Tars of short utterances of tests/speech; returns (shard, key) of every sample."""
    folder.mkdir(parents=True)
    keys = []
    for number in range(shards):
        name = f"part-{number:02d}"
        source = SPEECH / f"speech-{number % 3:06d}.tar"
        kept: list[str] = []
        with tarfile.open(source) as old, tarfile.open(folder / f"{name}.tar", "w") as new:
            for info in old:
                key = info.name.partition(".")[0]
                if key not in kept and len(kept) == samples:
                    break
                if key not in kept:
                    kept.append(key)
                new.addfile(info, old.extractfile(info))
        keys += [(name, key) for key in kept]
    return keys


def shard_hashes(store: Store) -> dict[str, str]:
    """SHA-256 of everything below shards/."""
    names = [name for name in store.state() if name.startswith("shards/")]
    return {name: hashlib.sha256(store.read(name)).hexdigest() for name in names}


def report_rows(store: Store) -> dict[tuple[str, str], dict]:
    """The rows of all reports. Two rows of one sample come out as a third, which nothing equals."""
    rows: dict[tuple[str, str], dict] = {}
    for name in store.state():
        if name.startswith("reports/"):
            for row in pq.read_table(io.BytesIO(store.read(name))).to_pylist():
                key = row["shard"], row["key"]
                rows[key] = row if key not in rows else {"twice": row}
    return rows


def left_over(store: Store, names: list[str]) -> list[str]:
    """What an OUTPUT has beyond these shards' files, or lacks."""
    wanted = {f"shards/{name}.tar" for name in names} | {f"reports/{n}.parquet" for n in names}
    wanted |= {"run.json", "manifest.parquet", "summary.json"}
    state = set(store.state())
    problems = [f"left over: {name}" for name in sorted(state - wanted)]
    problems += [f"missing: {name}" for name in sorted(wanted - state)]
    if isinstance(store, S3Store):
        uploads = store.s3.client.list_multipart_uploads(Bucket=store.s3.bucket).get("Uploads", [])
        problems += [f"an upload that never ended: {upload['Key']}" for upload in uploads]
    return problems


def remove(folder: Path) -> None:
    """Remove a folder that a fault has used."""
    shutil.rmtree(folder, ignore_errors=True)
    assert not os.path.exists(folder)
