"""jobs/ingest.py from the outside: on Ray, on S3, killed, with copies and in a random order."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import ROOT, run_job
from here import ingest_here, samples_of

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 files of half a second; every tenth is a copy of an earlier one in another container."""
    folder = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    samples = [rng.integers(-9000, 9000, RATE // 2) / 32768 for _ in range(60)]
    for number in range(60):
        copy = number % 10 == 9
        name = f"{number:03d}.{'wav' if copy else 'flac'}"
        soundfile.write(folder / name, samples[number - 7 if copy else number], RATE)
    return folder


def ingest(folder, output, *flags, **more):
    return run_job("ingest", "--input", folder, "--output", output, *flags, **more)


def test_copies_are_left_out_once_each(folder, tmp_path):
    done = ingest(folder, tmp_path / "out", "--dedup", "exact", "--shard-size-mb", "0.05")
    assert done.returncode == 0, done.stderr
    assert "54 ok, 6 rejected" in done.stdout and "6 copy" in done.stdout
    rows = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    copies = {row["key"] for row in rows if row["reason"] == "copy"}
    assert copies == {f"{number:03d}" for number in range(9, 60, 10)}
    samples = samples_of(tmp_path / "out")
    assert set(samples) == {f"{number:03d}" for number in range(60)} - copies
    assert all(samples[row["key"]] for row in rows if row["shard"])
    assert not (tmp_path / "out/staging/reports").exists() or not list(
        (tmp_path / "out/staging").rglob("*.*")
    )
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    again = ingest(folder, tmp_path / "out", "--dedup", "exact", "--shard-size-mb", "0.05")
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


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_bytes(folder, tmp_path):
    manifest = folder / "all.jsonl"
    rows = [
        {"audio_filepath": f"{number:03d}.flac", "offset": start, "duration": 0.2}
        for number in range(60)
        if number % 10 != 9
        for start in (0.0, 0.2)
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--shard-size-mb", "0.02", "--dedup", "exact"]
    assert ingest(manifest, tmp_path / "whole", *flags).returncode == 0
    command = [sys.executable, ROOT / "jobs/ingest.py", "--input", manifest]
    command += ["--output", tmp_path / "killed", *flags]
    for share in (0.3, 0.6):
        job = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        reports = (tmp_path / "killed").rglob
        while time.monotonic() < deadline and job.poll() is None:
            if len(list(reports("*.part"))) + len(list(reports("*.tar"))) >= share * 50:
                break
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
        job.wait()
        subprocess.run(["pkill", "-9", "-f", f"[r]aylet.*{job.pid}"], check=False)
    assert ingest(manifest, tmp_path / "killed", *flags).returncode == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.tar")}
    killed = {path.name: path.read_bytes() for path in (tmp_path / "killed").glob("*.tar")}
    assert whole == killed
