"""jobs/ingest.py from the outside: on Ray, on S3, killed, with copies and in a random order."""

import json
import signal
import subprocess
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import ROOT, job_command, run_job
from here import ingest_here, samples_of
from ray_cluster import shared_cluster
from stores import LocalStore, S3Store

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 files of half a second; every tenth is a copy of an earlier one in another container.

    And two whose sound is the same in 16 bits, of which the first has a clipped sample in 24.
    """
    folder = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    samples = [rng.integers(-9000, 9000, RATE // 2) / 32768 for _ in range(60)]
    for number in range(60):
        copy = number % 10 == 9
        name = f"{number:03d}.{'wav' if copy else 'flac'}"
        soundfile.write(folder / name, samples[number - 7 if copy else number], RATE)
    for name, peak, bits in (("060.flac", 32735.4, 24), ("061.flac", 32735, 16)):
        wave = np.append(samples[0], peak / 32768)
        soundfile.write(folder / name, wave, RATE, subtype=f"PCM_{bits}")
    return folder


def ingest(folder, output, *flags, **more):
    return run_job("ingest", "--input", folder, "--output", output, *flags, **more)


def test_copies_are_left_out_once_each(folder, tmp_path):
    flags = ("--dedup", "exact", "--shard-size-mb", "0.05", "--max-clipped", "0")
    done = ingest(folder, tmp_path / "out", *flags, "--max-reject-rate", "0.2")
    assert done.returncode == 0, done.stderr
    assert "55 ok, 7 rejected" in done.stdout and "6 copy" in done.stdout
    rows = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    copies = {row["key"] for row in rows if row["reason"] == "copy"}
    assert copies == {f"{number:03d}" for number in range(9, 60, 10)}
    samples = samples_of(tmp_path / "out")
    # The clipped one is left out, and what has its sound is no copy of it.
    assert set(samples) == {f"{number:03d}" for number in range(62)} - copies - {"060"}
    assert all(samples[row["key"]] for row in rows if row["shard"])
    assert not list((tmp_path / "out/staging").rglob("*.*"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    again = ingest(folder, tmp_path / "out", *flags, "--max-reject-rate", "0.2")
    assert again.returncode == 0 and again.stdout == done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}


def test_shuffled_samples_are_the_same_in_another_order(folder, tmp_path):
    ingest_here([folder], tmp_path / "kept", shard_bytes=50_000)
    orders = []
    for seed in (1, 1, 2):
        output = tmp_path / f"{len(orders)}"
        ingest_here([folder], output, shard_bytes=50_000, shuffle=seed)
        samples = samples_of(output)
        assert samples == samples_of(tmp_path / "kept")
        orders.append(list(samples))
    assert orders[0] == orders[1] != orders[2] and orders[0] != sorted(orders[0])
    sizes = [path.stat().st_size for path in (tmp_path / "0").glob("*.tar")]
    assert max(sizes) < 110_000


@pytest.fixture(scope="module")
def manifest(folder):
    """Two parts of each file that is no copy, and its path."""
    rows = [
        {"audio_filepath": f"{number:03d}.flac", "offset": start, "duration": 0.2}
        for number in range(30)
        if number % 10 != 9
        for start in (0.0, 0.2)
    ]
    rows += [{**rows[0], "id": "a copy"}]
    path = folder / "all.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def outputs(store):
    """What a user reads: all but the time-stamped and the temporary."""
    names = [name for name in store.state() if name.endswith((".tar", ".parquet"))]
    return {name: store.read(name) for name in names}


def killed(command, store, moment):
    """Start a job, and kill it once its output has so many files. Returns whether it still ran."""
    job = subprocess.Popen(
        command, cwd=ROOT, env=shared_cluster(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 250
    while job.poll() is None and time.monotonic() < deadline and len(store.state()) < moment:
        time.sleep(0.02)
    job.send_signal(signal.SIGKILL)
    errors = job.communicate()[1]
    assert job.returncode in (0, -signal.SIGKILL), errors
    return job.returncode != 0


SMALL_SHARDS = ("--shard-size-mb", "0.02", "--dedup", "exact")


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    """What a run that nothing disturbs makes of the manifest."""
    output = tmp_path_factory.mktemp("whole") / "shards"
    done = ingest(manifest, output, *SMALL_SHARDS)
    assert done.returncode == 0, done.stderr
    return outputs(LocalStore(output))


@pytest.mark.slow
@pytest.mark.parametrize(("where", "shares"), [("local", (0.3, 0.9)), ("s3", (0.4,))])
def test_killed_and_started_again_it_gives_the_same_bytes(
    folder, manifest, whole, s3, tmp_path, where, shares
):
    """While samples are staged, and while copies are left out and shards published.

    shares: of the files that there are in the end, and, two a shard, once all samples are staged.
    """
    store, inputs = LocalStore(tmp_path / "killed"), str(manifest)
    if where == "s3":
        inputs = f"{s3.upload(folder, 'noise')}/{manifest.name}"
        store = S3Store(s3, "ingested")
    flags = (*SMALL_SHARDS, "--input", inputs, "--output", store.url)
    command = job_command("ingest", *flags)
    still_ran = [killed(command, store, int(share * len(whole))) for share in shares]
    assert any(still_ran)
    done = run_job("ingest", *flags)
    assert done.returncode == 0, done.stderr
    assert "54 ok, 1 rejected" in done.stdout and outputs(store) == whole
    assert not [name for name in store.state() if name.startswith("staging/")]
