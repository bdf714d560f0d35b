"""jobs/tokenize.py killed at bad moments ends in the same bytes, and does nothing twice."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import LONGEST_JOB, ONE_THREAD, ROOT, SPEECH, job_command, run_job
from ray_cluster import (
    end_ray,
    environment,
    ray_processes,
    shared_cluster,
    shared_processes,
)
from stores import LocalStore, S3Store

SHARDS = 12
ENCODER = "ray::EncoderActor"
NAMES = [f"part-{number:02d}" for number in range(SHARDS)]


def finished(state: dict) -> int:
    """Reports in an OUTPUT."""
    return sum(name.startswith("reports/") for name in state)


def half_committed(state: dict) -> bool:
    """Whether a shard exists whose report does not."""
    tars = {name[7:-4] for name in state if name.startswith("shards/")}
    return bool(tars - {name[8:-8] for name in state if name.startswith("reports/")})


def hashes(store) -> dict[str, str]:
    """SHA-256 of everything below shards/."""
    names = [name for name in store.state() if name.startswith("shards/")]
    return {name: hashlib.sha256(store.read(name)).hexdigest() for name in names}


def started(*flags, env: dict) -> subprocess.Popen:
    """A process of jobs/tokenize.py that leads a group."""
    return subprocess.Popen(
        job_command("tokenize", *flags),
        cwd=ROOT,
        env=env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


class WatchedJob:
    """Runs a job whose Ray processes can be told from others, and do not outlive the test."""

    def __init__(self):
        # A short path: Ray puts sockets below it.
        self.folder = tempfile.mkdtemp(prefix="wm-", dir="/tmp")

    def start(self, *flags) -> subprocess.Popen:
        """Start jobs/tokenize.py as the leader of a group of processes."""
        env = environment({"RAY_TMPDIR": self.folder, "TMPDIR": self.folder})
        return started(*flags, env=env)

    def workers(self) -> dict[int, str]:
        """{process id: title} of workers; Ray's own processes may take a minute to end."""
        processes = ray_processes(self.folder).items()
        return {p: t for p, t in processes if t.startswith(("ray::tokenize", ENCODER))}

    def wait_for_workers(self) -> dict[int, str]:
        """Wait until the last worker has ended. Returns those that did not."""
        deadline = time.monotonic() + 120
        while (left := self.workers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


@pytest.fixture
def watched():
    """A WatchedJob; its remaining processes are killed in the end."""
    watched = WatchedJob()
    try:
        yield watched
    finally:
        end_ray(watched.folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Copies of tests/speech under other names: enough shards to be killed between."""
    folder = tmp_path_factory.mktemp("source")
    for number, name in enumerate(NAMES):
        shutil.copy(SPEECH / f"speech-{number % 3:06d}.tar", folder / f"{name}.tar")
    return folder


@pytest.fixture(scope="module")
def undisturbed(source, tokenizer, tmp_path_factory) -> dict[str, str]:
    """Hashes of the shards of a run that nobody kills."""
    store = LocalStore(tmp_path_factory.mktemp("undisturbed"))
    flags = ("--input", source, "--tokenizer", tokenizer, "--output", store.url, *ONE_THREAD)
    done = run_job("tokenize", *flags)
    assert done.returncode == 0, done.stderr
    assert set(store.state()) == contract()
    return hashes(store)


def contract() -> set[str]:
    """Every file that an OUTPUT of `source` has, and no other."""
    files = {f"shards/{name}.tar" for name in NAMES} | {f"reports/{n}.parquet" for n in NAMES}
    return files | {"run.json", "manifest.parquet", "summary.json"}


# When to kill, and what: the driver alone, whose Ray lives on, or a driver with its own Ray, which
# make a group of processes. The first moment is between a shard's two commits; it lasts a
# millisecond, so a little later counts too. On a busy machine several more shards may be done by
# the time a listing of S3 is read, so most are left.
MOMENTS = {
    "local": [
        (lambda state: half_committed(state) or finished(state) >= 2, os.kill),
        (lambda state: finished(state) >= 4, os.killpg),
    ],
    "s3": [(lambda state: finished(state) >= 2, os.kill)],
}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "s3"])
def test_killed_runs_end_in_the_same_bytes(
    where, source, tokenizer, undisturbed, watched, tmp_path, request
):
    store = LocalStore(tmp_path / "out")
    inputs = str(source)
    if where == "s3":
        s3 = request.getfixturevalue("s3")
        store, inputs = S3Store(s3, "resumed"), s3.upload(source, "resumed-source")
    flags = ("--input", inputs, "--tokenizer", tokenizer, "--output", store.url, *ONE_THREAD)
    for reached, kill in MOMENTS[where]:
        whole = kill is os.killpg
        job = watched.start(*flags) if whole else started(*flags, env=shared_cluster())
        while not reached(store.state()):
            assert job.poll() is None, f"it ended before it was killed: {job.stderr.read()}"
            time.sleep(0.1 if where == "s3" else 0.004)
        kill(job.pid, signal.SIGKILL)
        job.wait()
        if whole:
            assert watched.wait_for_workers() == {}
        # Otherwise start at once, while the old run's workers may still be there.
        assert not {"summary.json", "manifest.parquet"} & set(store.state())
        before = store.state()
    done = run_job("tokenize", *flags) if where == "s3" else run_and_kill_encoders(flags, store)
    assert done.returncode == 0, done.stderr
    after = store.state()
    assert set(after) == contract()
    assert hashes(store) == undisturbed
    kept = [name for name in before if name.startswith("reports/")]
    assert len(kept) >= 2 and all(after[name] == before[name] for name in kept)
    summary = json.loads(store.read("summary.json"))
    assert (summary["shards"], summary["samples"], summary["failed"]) == (SHARDS, 240, {})
    # Workers of a driver that was killed alone may have finished one more.
    assert 0 < summary["this_run"]["shards"] <= SHARDS - len(kept)

    done = run_job("tokenize", *flags)
    assert done.returncode == 0 and "nothing was left to do" in done.stdout
    assert store.state() == after


def run_and_kill_encoders(flags: tuple, store: LocalStore) -> subprocess.CompletedProcess:
    """Run the job to its end; kill its encoder on the way, and then the one that replaces it."""
    before, killed = finished(store.state()), set()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run_job, "tokenize", *flags)
        while len(killed) < 2:
            assert not job.done(), job.result().stderr
            # Once at the start of the work and once a little later.
            if finished(store.state()) > before + len(killed):
                encoders = {p for p, title in shared_processes().items() if ENCODER in title}
                for process in encoders - killed:
                    os.kill(process, signal.SIGKILL)
                    killed.add(process)
            time.sleep(0.01)
        return job.result()


@pytest.mark.slow
def test_a_shard_that_fails_stops_no_other(s3, tokenizer):
    """An object that is there when the inputs are listed, and gone when its turn comes."""
    inputs, store = s3.upload(SPEECH, "vanishing"), S3Store(s3, "vanished")
    flags = ("--input", inputs, "--tokenizer", tokenizer, "--output", store.url, *ONE_THREAD)
    job = started(*flags, env=shared_cluster())
    first = job.stderr.readline()
    assert "encoding in" in first  # the inputs are listed, and an encoder is about to be started
    s3.client.delete_object(Bucket=s3.bucket, Key="vanishing/speech-000001.tar")
    _, errors = job.communicate(timeout=LONGEST_JOB)
    assert job.returncode == 1
    failures = [line for line in errors.splitlines() if line.startswith("problem:")]
    assert len(failures) == 1 and "shard speech-000001 failed" in failures[0]
    summary = json.loads(store.read("summary.json"))
    assert list(summary["failed"]) == ["speech-000001"]
    assert (summary["shards"], summary["samples"]) == (2, 60 - 22)
    before = store.state()
    assert finished(before) == 2 and not half_committed(before)

    s3.upload(SPEECH, "vanishing")
    done = run_job("tokenize", *flags)
    assert done.returncode == 0, done.stderr
    summary = json.loads(store.read("summary.json"))
    assert summary["this_run"]["shards"] == 1
    assert (summary["shards"], summary["samples"], summary["failed"]) == (3, 60, {})
    after = store.state()
    done_before = [name for name in before if name.startswith(("shards/", "reports/", "run"))]
    assert all(after[name] == before[name] for name in done_before)
