"""What the tests of jobs share: a small encoder and tokenizer, an S3 server, one good run.

Nothing is mocked: jobs run as a user runs them, and S3 is a server in another process.
"""

import contextlib
import fcntl
import importlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# As `make test` has it, before PyTorch is imported: sums of two threads are rounded otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset as wds
from ray_cluster import JOBS, ROOT, end_ray, environment, store_variables
from stores import s3_server
from tars import SPEECH
from transformers import WavLMConfig, WavLMModel

SETTINGS = ("window_seconds", "context_seconds", "batch_size", "batch_seconds", "precision")
# One encoder of one thread: what a shard's bytes are compared with, over and over.
ONE_THREAD = ("--encoders", 1, "--cpus-per-encoder", 1)

# Which tests get the marker `job`: those that run a program, which `make check` leaves out. A test
# runs a program if it, a fixture of it or a function of tests/ that one of them calls names one of
# these.
PROCESSES = {"subprocess", "shared_cluster"}


def runs_a_job(item: pytest.Item) -> bool:
    """Whether a test, or one of its fixtures, runs a program."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    fixtures = [fixture.func for group in definitions for fixture in group]
    return any(map(_starts_process, [item.function, *fixtures]))


def _starts_process(function: object, seen: set[object] | None = None) -> bool:
    seen = set() if seen is None else seen
    function = getattr(function, "__wrapped__", function)
    if isinstance(function, type):
        methods = [part for part in vars(function).values() if isinstance(part, types.FunctionType)]
        return any(_starts_process(method, seen) for method in methods)
    if not isinstance(function, types.FunctionType) or function in seen:
        return False
    seen.add(function)
    names = _names(function.__code__)
    if names & PROCESSES:
        return True
    called = (function.__globals__.get(name) for name in names)
    return any(_starts_process(part, seen) for part in called if _is_of_tests(part))


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _is_of_tests(part: object) -> bool:
    module = getattr(part, "__module__", "") or ""
    return not module.startswith(("torch", "numpy", "tokenizer.", "pipeline.", "lm.", "jobs."))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: of two run side by side, one begun last would end alone.

    Tests that run a job get the marker `job`.
    """
    for item in items:
        if runs_a_job(item):
            item.add_marker("job")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def job_command(job: str, *flags) -> list[str]:
    """The command line of jobs/JOB.py, with this Python."""
    return [sys.executable, f"jobs/{job}.py", *map(str, flags)]


# Seconds: many times what any job takes, as a machine may be slow and busy.
LONGEST_JOB = 400


def run_job(job: str, *flags, env: dict | None = None):
    """Run jobs/JOB.py as a user does, from the repository's root, and wait for it.

    env: variables to add, or with None to remove. A job with `env` has a process of its own and
    starts its own Ray, whose workers have the variables too; any other job connects to the shared
    cluster, and runs in a process where others ran before it. Returns the CompletedProcess, with
    text.
    """
    if env is None:
        return JOBS.run(job_command(job, *flags), LONGEST_JOB)
    return subprocess.run(
        job_command(job, *flags),
        cwd=ROOT,
        env=environment(env),
        timeout=LONGEST_JOB,
        capture_output=True,
        text=True,
    )


def run_here(job: str, *flags, env: dict | None = None) -> subprocess.CompletedProcess:
    """As run_job, in this process: for arguments that a job refuses before any work."""
    command = job_command(job, *flags)
    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", command[1:])
        patch.setattr(sys, "path", ["", *sys.path])  # the job replaces the first, its own folder
        for name, value in (env or {}).items():
            patch.delenv(name, raising=False)
            if value is not None:
                patch.setenv(name, str(value))
        runpy.run_path(command[1], run_name="__main__")
    return subprocess.CompletedProcess(
        command, end.value.code, output.getvalue(), errors.getvalue()
    )


# The modules that hand a training to Ray Train.
TRAINERS = {"train_lm": "jobs.cli.training.lm", "train_tokenizer": "pipeline.training.distill"}


class Board:
    """In place of the actor that progress is written to."""

    @property
    def write(self):
        return self

    def remote(self, *values, **named):
        pass


def train_here(job: str, *flags, env: dict | None = None) -> subprocess.CompletedProcess:
    """As run_here, with the training in this process too: Ray Train's own take long to start."""

    def run(name: str, function: Callable[[dict], None], *, make_run: Callable, **_) -> None:
        function({"run": make_run(Board())})

    module, threads = importlib.import_module(TRAINERS[job]), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "connect", lambda: None)
        patch.setattr(module, "run_in_processes", run)
        done = run_here(job, *flags, env=env)
    torch.set_num_threads(threads)
    return done


def as_flags(values: dict) -> list:
    """A command line's flags. A list is several values, None leaves one out, True is a switch."""
    line: list = []
    for name, value in values.items():
        if value is not None:
            given = value if isinstance(value, list | tuple) else [value]
            line += [f"--{name}", *(each for each in given if each is not True)]
    return line


def json_lines(path: Path) -> list[dict]:
    """The lines of a log; none where there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill_when(reached: Callable[[], bool], job: str, *flags) -> None:
    """Start jobs/JOB.py, and kill it and its Ray with SIGKILL once `reached` returns true.

    Fails with the job's stderr when the job ends before.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    process = subprocess.Popen(
        job_command(job, *flags),
        cwd=ROOT,
        env=environment({"RAY_TMPDIR": folder}),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 200
        while not reached():
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.01)
        end_ray(folder)  # the trainer is a process of it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        end_ray(folder)


def read_tokens(path) -> dict[str, tuple[np.ndarray, dict]]:
    """{key: (tokens, KEY.json)} of a token shard, in order, read by plain webdataset.

    path: a local path, or an open binary file.
    """
    if isinstance(path, str | Path):
        samples = wds.WebDataset(str(path), shardshuffle=False, empty_check=False)
    else:
        shards = [{"url": "shard.tar", "stream": path}]
        samples = wds.tariterators.group_by_keys(wds.tariterators.tar_file_expander(shards))
    return {
        sample["__key__"]: (
            np.load(io.BytesIO(sample["tokens.npy"]), allow_pickle=False),
            json.loads(sample["json"]),
        )
        for sample in samples
    }


def rows_of(parquet: Path) -> list[dict]:
    """Rows of a report or manifest."""
    return pq.read_table(parquet).to_pylist()


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of equal tokens over the length both have."""
    length = min(len(one), len(other))
    return float(np.mean(one[:length] == other[:length]))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A WavLM folder of random weights, with layer-norm convolutions like WavLM-large's."""
    folder = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = WavLMConfig(
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=256,
            conv_dim=[64] * 7,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
        WavLMModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(encoder, tmp_path_factory) -> Path:
    """A tokenizer folder, trained by jobs/train_tokenizer.py on tests/speech.

    Tests must not change it: files that are run side by side have the same one.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tokenizer"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            flags = {"input": SPEECH, "encoder": encoder, "layer": 2, "codebook-size": 128}
            done = run_job("train_tokenizer", *as_flags({**flags, "output": folder}))
            assert done.returncode == 0, done.stderr
    return folder


class Run(NamedTuple):
    """A finished run of jobs/tokenize.py: its OUTPUT and its process."""

    output: Path
    done: subprocess.CompletedProcess


@pytest.fixture(scope="session")
def good(tokenizer, tmp_path_factory) -> Run:
    """tests/speech, tokenized. Tests must not change it."""
    output = tmp_path_factory.mktemp("good") / "tokens"
    flags = ("--input", SPEECH, "--tokenizer", tokenizer, "--output", output)
    return Run(output, run_job("tokenize", *flags, *ONE_THREAD))


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """An S3 server (moto) in its own process, with one bucket."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log", store_variables()) as server:
        yield server
