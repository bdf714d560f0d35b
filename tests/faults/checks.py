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
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from conftest import ONE_THREAD, ROOT, SPEECH, job_command, run_job
from ray_cluster import end_ray, environment, ray_processes
from stores import LocalStore, S3Store

TOKENIZER = "wavlm-tiny-km256"
# Seconds that one run of a command may take: longer, and it does not end by itself.
LONGEST_RUN = 240
MOST_RUNS = 6
Store = LocalStore | S3Store


@dataclass
class Result:
    """A row of the table. times: runs of the command, or tries. problems: why it is bad.

    equal: whether the bytes are those of an undisturbed run; None where there are none. skipped:
    why it was not tried.
    """

    fault: str
    times: int = 0
    samples: int = 0
    rows: int = 0
    equal: bool | None = None
    problems: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """What the table says of it."""
        return f"skipped: {self.skipped}" if self.skipped else "; ".join(self.problems) or "ok"

    def line(self) -> str:
        """The row as the table has it."""
        equal = {None: "-", True: "yes", False: "NO"}[self.equal]
        figures = (f"{self.times:,}", f"{self.samples:,}", f"{self.rows:,}", equal, self.verdict)
        return f"| {self.fault} | {' | '.join(figures)} |"


COLUMNS = ("fault", "times", "samples in", "rows out", "equal", "verdict")


def show(results: Iterable[Result]) -> int:
    """Print the table, a row as soon as it is known. Returns the number of bad rows."""
    print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)
    bad = 0
    for result in results:
        print(result.line(), flush=True)
        bad += bool(result.problems)
    return bad


class World:
    """Inputs that all faults share, and what an undisturbed run makes of them.

    folder: for everything that is written. source: a folder of tars. rows: {(shard, key): row}.
    """

    def __init__(self, folder: Path, *, shards: int = 6, samples: int = 6) -> None:
        self.folder, self.source = folder, folder / "source"
        self.keys = make_source(self.source, shards=shards, samples=samples)
        self.samples = shards * samples
        store = LocalStore(folder / "undisturbed")
        done = run_job("tokenize", *self.flags(self.source, store.url))
        assert done.returncode == 0, done.stderr
        self.bytes, self.rows = shard_hashes(store), report_rows(store)
        assert sorted(self.rows) == sorted(self.keys)

    def flags(self, source: object, output: str) -> tuple:
        """The flags of jobs/tokenize.py."""
        where = ("--input", source, "--output", output, "--tokenizer", TOKENIZER)
        return (*where, *ONE_THREAD)

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


@dataclass(frozen=True)
class Ended:
    """A run of a command that ended. status: None if it did not end by itself."""

    status: int | None
    errors: str
    killed: bool = False
    left: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """What is wrong with the way in which it ended."""
        found = [f"left over: {name}" for name in self.left]
        if self.status is None:
            return ["it did not end by itself", *found]
        if self.killed:
            return found
        if "Traceback" in self.errors:
            found.append(f"a traceback: {self.errors.strip().splitlines()[-1][:120]}")
        if self.status not in (0, 1):
            found.append(f"exit status {self.status}")
        if self.status == 1 and not any(
            line.startswith(("problem:", "error:")) for line in self.errors.splitlines()
        ):
            found.append("exit status 1 without a line that says why")
        return found


class Command:
    """A job as the leader of a group of processes, whose Ray can be told from others."""

    def __init__(self, job: str, *flags: object, env: dict | None = None) -> None:
        self.folder = tempfile.mkdtemp(prefix="wm-", dir="/tmp")  # short: for Ray's sockets
        self.log = Path(self.folder, "stderr")
        changes = {"RAY_TMPDIR": self.folder, "TMPDIR": self.folder, **(env or {})}
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                job_command(job, *flags),
                cwd=ROOT,
                env=environment(changes),
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self.began = time.monotonic()

    def processes(self, *titles: str) -> dict[int, str]:
        """{process id: title} of its Ray processes; all, or those whose title has one of these."""
        found = ray_processes(self.folder).items()
        return {p: t for p, t in found if not titles or any(part in t for part in titles)}

    def end(
        self, *, killed: bool = False, tidy: bool = True, timeout: float = LONGEST_RUN
    ) -> Ended:
        """Wait until it ends, and see what it left: processes, and files in its TMPDIR.

        tidy: not of a job that lost a worker, which could not remove its temporary folder.
        """
        try:
            status: int | None = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
        deadline = time.monotonic() + 60
        # Of a Ray that lost its driver the servers end later than the workers.
        own = (
            ("ray::tokenize", "ray::EncoderActor") if killed else ("ray::", "raylet", "gcs_server")
        )
        while (processes := self.processes(*own)) and time.monotonic() < deadline:
            if status is None:
                break
            time.sleep(0.2)
        left = tuple(title[:60] for title in processes.values())
        if tidy and not killed:
            left += tuple(str(path) for path in Path(self.folder).glob("wavmill-*"))
        errors = self.log.read_text(errors="replace")
        self.close()
        return Ended(status, errors, killed=killed, left=left)

    def close(self) -> None:
        """End what is left of it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        end_ray(self.folder)


@contextmanager
def command(job: str, *flags: object, env: dict | None = None) -> Iterator[Command]:
    """A Command that does not outlive the block."""
    started = Command(job, *flags, env=env)
    try:
        yield started
    finally:
        started.close()


def run_until_done(flags: tuple, env: dict, *, most: int = MOST_RUNS) -> list[Ended]:
    """Run jobs/tokenize.py with the same flags until its status is 0 or no sign of progress.

    env: with RAY_ADDRESS the job connects to a cluster that runs already.
    """
    runs: list[Ended] = []
    while len(runs) < most and not (runs and runs[-1].status == 0):
        try:
            done = subprocess.run(
                job_command("tokenize", *flags),
                cwd=ROOT,
                env=env,
                timeout=LONGEST_RUN,
                capture_output=True,
                text=True,
            )
            runs.append(Ended(done.returncode, done.stderr))
        except subprocess.TimeoutExpired as error:
            errors = error.stderr or b""
            runs.append(Ended(None, errors.decode(errors="replace")))
            break
    return runs


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
