"""A job as it is run in production: `ray job submit` to a running cluster, everything on S3."""

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import SPEECH, as_flags, read_tokens
from ray_cluster import RAY, ROOT, Cluster, end_ray
from stores import S3

# What a person has lying in a checkout, and must not travel with every job.
HEAVY = (".venv/lib/heavy.bin", "out/demo/heavy.bin")


class Submitting(Cluster):
    """A Cluster that jobs are submitted to, and whose workers reach the store."""

    def __init__(self, s3: S3):
        super().__init__(s3.env, dashboard=True)

    def submit(self, checkout: Path, *flags) -> subprocess.CompletedProcess:
        """`ray job submit` of jobs/tokenize.py from a checkout; waits for its end."""
        entry = [sys.executable, "jobs/tokenize.py", *map(str, flags)]
        where = ["--address", f"http://127.0.0.1:{self.dashboard}", "--working-dir", "."]
        return subprocess.run(
            [*RAY, "job", "submit", *where, "--", *entry],
            env=self.env,
            cwd=checkout,
            timeout=200,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def packages(self) -> list[Path]:
        """Unpacked working directories of submitted jobs."""
        folders = Path(self.folder).glob("session_*/runtime_resources/working_dir_files/_ray_pkg_*")
        return sorted({folder.resolve() for folder in folders if folder.is_dir()})


@pytest.fixture(scope="module")
def cluster(s3):
    """A started cluster."""
    cluster = Submitting(s3)
    try:
        cluster.start()
        yield cluster
    finally:
        end_ray(cluster.folder)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The project as it lies on a person's disk, with what .gitignore keeps out of git, and without
    the weights that ship: packing them takes seconds.
    """
    folder = tmp_path_factory.mktemp("work") / "wavmill"
    leave = shutil.ignore_patterns(
        ".git", ".venv", "out", "__pycache__", "*.egg-info", "wavlm-tiny*"
    )
    shutil.copytree(ROOT, folder, ignore=leave)
    for name in HEAVY:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(random.Random(0).randbytes(8 << 20))
    return folder


@pytest.mark.slow
def test_submitted_job_makes_the_tokens_of_a_local_run(s3, cluster, checkout, tokenizer, good):
    flags = {
        "input": s3.upload(SPEECH, "submitted/in"),
        "tokenizer": s3.upload(tokenizer, "submitted/tokenizer"),
        "output": f"s3://{s3.bucket}/submitted/out",
    }
    done = cluster.submit(checkout, *as_flags(flags))
    assert done.returncode == 0, done.stdout
    assert re.search(r"Job '\S+' succeeded", done.stdout)
    assert "60 samples in 3 shards: 60 ok" in done.stdout

    remote = fsspec.filesystem("s3", endpoint_url=s3.endpoint, key="test", secret="test")
    names = [f"speech-{number:06d}" for number in range(3)]
    assert {path.rpartition("/")[2] for path in remote.find(f"{flags['output']}/shards")} == {
        f"{name}.tar" for name in names
    }
    for name in names:
        with remote.open(f"{flags['output']}/shards/{name}.tar") as tar:
            there = read_tokens(tar)
        here = read_tokens(good.output / f"shards/{name}.tar")
        assert list(there) == list(here)
        for key, (tokens, about) in here.items():
            assert about == there[key][1]
            assert np.array_equal(tokens, there[key][0])

    (package,) = cluster.packages()
    files = [path for path in package.rglob("*") if path.is_file()]
    assert package / "jobs/tokenize.py" in files
    assert not [name for name in HEAVY if (package / name).exists()]
    assert sum(path.stat().st_size for path in files) < 16 << 20


@pytest.mark.slow
def test_exit_status_of_a_submitted_job_travels(cluster, checkout, tokenizer):
    flags = ("--input", "nosuch://x", "--tokenizer", tokenizer, "--output", cluster.folder)
    done = cluster.submit(checkout, *flags)
    assert done.returncode != 0
    assert "error: --input nosuch://x" in done.stdout
    assert re.search(r"Job '\S+' failed", done.stdout) and "exit code 2" in done.stdout
