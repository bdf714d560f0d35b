"""jobs/tokenize.py on good input, from the outside: what an OUTPUT holds, and what decides it."""

import io
import json
import re
import shutil
import tarfile

import numpy as np
import pytest
import soundfile
from conftest import (
    ONE_THREAD,
    SETTINGS,
    SPEECH,
    agreement,
    read_tokens,
    rows_of,
    run_job,
)
from stores import snapshot

from tokenizer.audio.frames import num_frames
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

NAMES = [f"speech-{number:06d}" for number in range(3)]


def source_samples(name: str) -> dict[str, tuple[np.ndarray, dict]]:
    """{key: (waveform, metadata)} of a shard of tests/speech, in order."""
    with tarfile.open(SPEECH / f"{name}.tar") as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    keys = [member.removesuffix(".flac") for member in members if member.endswith(".flac")]
    return {
        key: (
            soundfile.read(io.BytesIO(members[f"{key}.flac"]))[0],
            json.loads(members[f"{key}.json"]),
        )
        for key in keys
    }


def test_every_sample_is_in_shard_report_and_manifest(good, tokenizer):
    assert good.done.returncode == 0, good.done.stderr
    rows = []
    for name in NAMES:
        source = source_samples(name)
        tokens = read_tokens(good.output / "shards" / f"{name}.tar")
        assert list(tokens) == list(source)
        for key, (waveform, metadata) in source.items():
            array, about = tokens[key]
            assert array.dtype == np.uint16 and array.shape == (num_frames(len(waveform)),)
            assert array.max() < 128
            assert about == {
                "duration_s": len(waveform) / 16_000,
                "sample_rate": 16_000,
                "num_tokens": len(array),
                "shard": name,
                "metadata": metadata,
            }
        expected = [
            {
                "shard": name,
                "key": key,
                "status": "ok",
                "reason": None,
                "duration_s": len(waveform) / 16_000,
                "num_tokens": len(tokens[key][0]),
            }
            for key, (waveform, _) in source.items()
        ]
        assert rows_of(good.output / "reports" / f"{name}.parquet") == expected
        rows += expected
    assert len(rows) == 60
    assert rows_of(good.output / "manifest.parquet") == rows


def test_records_and_no_other_file(good, tokenizer):
    run = json.loads((good.output / "run.json").read_text())
    config = json.loads((tokenizer / "config.json").read_text())
    assert run["tokenizer"] == config["fingerprint"]
    assert run["tokenizer_source"] == str(tokenizer)
    assert dict(zip(SETTINGS, (30.0, 2.0, 32, 240.0, "fp32"))) == run["settings"]
    assert {"wavmill", "python", "torch", "ray"} <= set(run["versions"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", run["versions"]["wavmill"])

    summary = json.loads((good.output / "summary.json").read_text())
    rows = rows_of(good.output / "manifest.parquet")
    assert (summary["shards"], summary["samples"], summary["ok"]) == (3, 60, 60)
    assert (summary["rejected"], summary["rejected_by_reason"]) == (0, {})
    assert (summary["failed"], summary["incomplete_shards"]) == ({}, [])
    assert summary["tokens"] == sum(row["num_tokens"] for row in rows)
    seconds = sum(row["duration_s"] for row in rows)
    assert summary["audio_hours"] == pytest.approx(seconds / 3600)
    used = np.concatenate(
        [
            array
            for name in NAMES
            for array, _ in read_tokens(good.output / f"shards/{name}.tar").values()
        ]
    )
    share = np.unique(used, return_counts=True)[1] / len(used)
    assert summary["codebook"]["size"] == 128
    assert summary["codebook"]["active_codes"] == len(share)
    assert summary["codebook"]["perplexity"] == pytest.approx(
        np.exp(-(share * np.log(share)).sum())
    )
    run = summary["this_run"]
    assert run["shards"] == 3 and run["times_real_time"] > 0
    assert run["limited_by"] in run["task_time"] and set(run["task_time"]) == {
        "decode",
        "encode",
        "storage",
    }
    assert sum(run["task_time"].values()) == pytest.approx(1)

    found = {str(p.relative_to(good.output)) for p in good.output.rglob("*") if p.is_file()}
    assert found == {
        *("run.json", "manifest.parquet", "summary.json"),
        *(f"shards/{name}.tar" for name in NAMES),
        *(f"reports/{name}.parquet" for name in NAMES),
    }
    folders = {p.name for p in good.output.rglob("*") if p.is_dir()}
    assert folders == {"shards", "reports"}


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param([f"{SPEECH}/"], id="folder"),
        pytest.param([f"{SPEECH}/*.tar"], id="glob"),
        pytest.param([f"{SPEECH}/speech-{{000000..000002}}.tar"], id="brace-range"),
        pytest.param([f"{SPEECH}/{name}.tar" for name in reversed(NAMES)], id="files"),
        pytest.param([f"{SPEECH}/*1.tar", SPEECH], id="overlapping"),
    ],
)
def test_same_shards_by_any_input(good, tokenizer, inputs):
    """Another spelling of the inputs names the same shards, so that nothing is left to do."""
    before = snapshot(good.output)
    done = run_job(
        "tokenize", "--input", *inputs, "--tokenizer", tokenizer, "--output", good.output
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was left to do" in done.stdout
    assert snapshot(good.output) == before


def test_an_output_of_other_versions_is_continued(good, tokenizer, tmp_path):
    """As one begun before versions named wavmill: a version alone decides no byte."""
    shutil.copytree(good.output, tmp_path / "out")
    record = tmp_path / "out/run.json"
    run = json.loads(record.read_text())
    del run["versions"]["wavmill"]
    run["versions"]["torch"] = "2.0.0"
    record.write_text(json.dumps(run))
    before = snapshot(tmp_path / "out")
    flags = ("--tokenizer", tokenizer, "--output", tmp_path / "out")
    done = run_job("tokenize", "--input", SPEECH, *flags)
    assert done.returncode == 0 and "nothing was left to do" in done.stdout, done.stderr
    assert snapshot(tmp_path / "out") == before


@pytest.mark.slow
def test_names_follow_the_common_folder(good, tokenizer, tmp_path):
    """A folder and, by way of it, a glob beside it; one of the tars has no sample."""
    for name, target in zip(NAMES, ("a/x.tar", "a/deep/x.tar", "b/y.tar")):
        (tmp_path / "in" / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SPEECH / f"{name}.tar", tmp_path / "in" / target)
    (tmp_path / "in/a/notes.txt").write_text("not a shard")
    tarfile.open(tmp_path / "in/a/empty.tar", "w").close()
    # The common folder is "in", though both inputs begin with "in/a".
    inputs = [tmp_path / "in/a", f"{tmp_path}/in/a/../b/*.tar"]
    output = tmp_path / "out"
    flags = ("--tokenizer", tokenizer, "--output", output, *ONE_THREAD)
    done = run_job("tokenize", "--input", *inputs, *flags)
    assert done.returncode == 0, done.stderr
    tars = {str(p.relative_to(output / "shards")) for p in (output / "shards").rglob("*.tar")}
    assert tars == {"a/x.tar", "a/deep/x.tar", "a/empty.tar", "b/y.tar"}
    shards = {row["shard"] for row in rows_of(output / "manifest.parquet")}
    assert shards == {"a/x", "a/deep/x", "b/y"}
    for name, other in zip(NAMES, ("a/x", "a/deep/x", "b/y")):
        one = read_tokens(good.output / f"shards/{name}.tar")
        two = read_tokens(output / f"shards/{other}.tar")
        assert list(one) == list(two)
        assert all(np.array_equal(one[key][0], two[key][0]) for key in one)
        assert {about["shard"] for _, about in two.values()} == {other}
    # An empty shard is finished like any other.
    assert rows_of(output / "reports/a/empty.parquet") == []
    assert read_tokens(output / "shards/a/empty.tar") == {}
    assert json.loads((output / "summary.json").read_text())["shards"] == 4


@pytest.mark.slow
def test_same_bytes_by_any_number_of_encoders(good, tokenizer, tmp_path):
    flags = ("--encoders", 4, "--cpus-per-encoder", 1, "--output", tmp_path)
    done = run_job("tokenize", "--input", SPEECH, "--tokenizer", tokenizer, *flags)
    assert done.returncode == 0, done.stderr
    for kind, ending in (("shards", "tar"), ("reports", "parquet")):
        for name in NAMES:
            file = f"{kind}/{name}.{ending}"
            assert (tmp_path / file).read_bytes() == (good.output / file).read_bytes(), file


@pytest.mark.slow
def test_same_tokens_by_any_batch_size(good, tokenizer, tmp_path, record_property):
    flags = ("--batch-size", 1, "--output", tmp_path, *ONE_THREAD)
    done = run_job("tokenize", "--input", SPEECH, "--tokenizer", tokenizer, *flags)
    assert done.returncode == 0, done.stderr
    one, two = (
        np.concatenate(
            [array for n in NAMES for array, _ in read_tokens(out / f"shards/{n}.tar").values()]
        )
        for out in (good.output, tmp_path)
    )
    record_property("agreement_batch_1_and_32", agreement(one, two))
    # What differs is the last bit of a sum, which may move a frame that lies between two codes.
    assert len(one) == len(two) and agreement(one, two) >= 0.9999


@pytest.mark.slow
def test_windows_keep_the_length_of_one_pass(tokenizer, tmp_path, record_property):
    """Three minutes through windows of ten seconds: each frame once, and nearly the same tokens."""
    sound = np.concatenate([wave for name in NAMES for wave, _ in source_samples(name).values()])
    # Neither a whole number of windows nor of frames.
    sound = sound[: 180 * 16_000 + 123].astype(np.float32)
    flac = io.BytesIO()
    soundfile.write(flac, sound, 16_000, format="FLAC", subtype="PCM_16")
    with tarfile.open(tmp_path / "long.tar", "w") as tar:
        info = tarfile.TarInfo("long.flac")
        info.size = len(flac.getvalue())
        tar.addfile(info, io.BytesIO(flac.getvalue()))
    cut = ("--window-seconds", 10, "--context-seconds", 1, *ONE_THREAD)
    flags = ("--input", tmp_path / "long.tar", "--tokenizer", tokenizer, "--output", tmp_path / "o")
    done = run_job("tokenize", *flags, *cut)
    assert done.returncode == 0, done.stderr
    tokens, about = read_tokens(tmp_path / "o/shards/long.tar")["long"]
    one_pass = Tokenizer(TokenizerFiles.read(tokenizer)).encode(sound, window_seconds=200)
    assert len(tokens) == len(one_pass) == num_frames(len(sound)) == about["num_tokens"]
    record_property("agreement_windows_and_one_pass", agreement(tokens, one_pass))
    assert agreement(tokens, one_pass) >= 0.95
