"""jobs/tokenize.py on bad samples and broken tars: each has its row, and no good sample suffers.

The tar below has every kind of bad sample among good ones of every format.
"""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from conftest import (
    ONE_THREAD,
    SPEECH,
    Run,
    agreement,
    read_tokens,
    rows_of,
    run_here,
    run_job,
)
from refusals import assert_refused
from tars import tar, waves

RATE = 16_000


def audio(sound: np.ndarray, rate: int = RATE, kind: str = "FLAC", subtype: str = "PCM_16"):
    """An audio file's bytes."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind, subtype=subtype)
    return file.getvalue()


def at_lowest_quality(sound: np.ndarray) -> bytes:
    """An Ogg Vorbis file's bytes. Of channels that cancel, noise is left in the mix."""
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="OGG", compression_level=1.0)
    return file.getvalue()


def speech() -> np.ndarray:
    """Some seconds of speech at 16 kHz."""
    return np.concatenate(waves()[:3])


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def samples(trap: Path) -> list[tuple[str, str | None, list[tuple[str, bytes]]]]:
    """(key, reason or None for a good one, members) of every sample, in the order of the tar."""
    x = speech()
    flac, wav, text = audio(x), audio(x, kind="WAV"), b"It is a text, not a sound.\n" * 40
    narrow = soxr.resample(x, RATE, 8000)
    side = 0.1 * np.roll(x, 5000)  # left and right differ, and their mean is x
    broken = {"nan": np.nan, "inf": np.inf, "minus_inf": -np.inf}
    poison = {name: np.where(np.arange(len(x)) == 7000, v, x) for name, v in broken.items()}
    pickled = pickle.dumps(Trap(trap))
    good = [
        ("mono", [("flac", flac), ("json", b'{"text": "hello"}')]),
        ("stereo", [("flac", audio(np.stack([x + side, x - side], 1)))]),
        ("rate8000", [("flac", audio(narrow, 8000))]),
        # The same as the 8 kHz file at 16 kHz: the upper half of its spectrum is empty.
        ("rate8000_as_16000", [("flac", audio(soxr.resample(narrow, 8000, RATE)))]),
        ("rate44100", [("flac", audio(soxr.resample(x, RATE, 44_100), 44_100))]),
        ("rate48000", [("wav", audio(soxr.resample(x, RATE, 48_000), 48_000, "WAV"))]),
        ("bits24", [("flac", audio(x, subtype="PCM_24"))]),
        ("float", [("wav", audio(x, kind="WAV", subtype="FLOAT"))]),
        ("mp3", [("mp3", audio(x, kind="MP3", subtype="MPEG_LAYER_III"))]),
        ("ogg", [("ogg", audio(x, kind="OGG", subtype="VORBIS"))]),
        ("opus", [("opus", audio(x, kind="OGG", subtype="OPUS"))]),
        ("exactly400", [("wav", audio(x[:400], kind="WAV"))]),
        ("pickled", [("pyd", pickled), ("pickle", pickled), ("flac", flac), ("pkl", pickled)]),
        ("bad_json", [("flac", flac), ("json", b"{not json")]),
        ("folder/upper", [("FLAC", flac)]),
        ("video", [("mp4", text), ("flac", flac), ("webm", text)]),
    ]
    bad = [
        ("text_as_flac", "not_audio", [("flac", text)]),
        ("cut_flac", "truncated_audio", [("flac", flac[: len(flac) // 2])]),
        ("cut_wav", "truncated_audio", [("wav", wav[: len(wav) // 2])]),
        ("no_samples", "empty_audio", [("wav", audio(x[:0], kind="WAV"))]),
        *(
            (name, "not_finite", [("wav", audio(y, kind="WAV", subtype="FLOAT"))])
            for name, y in poison.items()
        ),
        ("only399", "too_short", [("wav", audio(x[:399], kind="WAV"))]),
        # Resampled from 1 Hz to 16 kHz, its 230 kB would be 7 GB.
        ("one_hertz", "not_audio", [("wav", audio(x, 1, "WAV"))]),
        ("without_audio", "no_audio", [("json", b"{}"), ("txt", text)]),
        ("with_two", "two_audio_members", [("flac", flac), ("wav", wav)]),
        ("mono", "duplicate_key", [("flac", flac)]),
        ("../outside", "bad_name", [("flac", flac)]),
        ("/absolute", "bad_name", [("flac", flac)]),
        ("only_pickled", "no_audio", [("pyd", pickled)]),
        ("opposite", "channels_cancel", [("flac", audio(np.stack([x, -x], 1)))]),
        ("opposite_ogg", "channels_cancel", [("ogg", at_lowest_quality(np.stack([x, -x], 1)))]),
    ]
    # Good and bad alternate: a bad sample must not affect the next one.
    table = []
    for number in range(max(len(good), len(bad))):
        table += [(key, None, members) for key, members in good[number : number + 1]]
        table += bad[number : number + 1]
    return table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """(samples, the folder that unpickling would make)."""
    trap = tmp_path_factory.mktemp("trap") / "sprung"
    return samples(trap), trap


@pytest.fixture(scope="module")
def mixed(table, tokenizer, tmp_path_factory) -> Run:
    """A run over the tar of good and bad samples, with the reject rate left at its default."""
    folder = tmp_path_factory.mktemp("mixed")
    members = [(f"{key}.{ending}", data) for key, _, parts in table[0] for ending, data in parts]
    (folder / "mixed.tar").write_bytes(tar(*members))
    flags = ("--input", folder / "mixed.tar", "--tokenizer", tokenizer, "--output", folder / "out")
    return Run(folder / "out", run_job("tokenize", *flags, *ONE_THREAD))


@pytest.mark.slow
def test_every_bad_sample_has_its_row(mixed, table):
    expected = [(key, "rejected" if why else "ok", why) for key, why, _ in table[0]]
    rows = rows_of(mixed.output / "reports/mixed.parquet")
    assert [(row["key"], row["status"], row["reason"]) for row in rows] == expected
    assert rows_of(mixed.output / "manifest.parquet") == rows
    for row in rows:
        assert (row["num_tokens"] > 0) == (row["status"] == "ok")
    tokens = read_tokens(mixed.output / "shards/mixed.tar")
    assert list(tokens) == [key for key, why, _ in table[0] if not why]
    assert tokens["mono"][1]["metadata"] == {"text": "hello"}
    assert tokens["bad_json"][1]["metadata"] is None
    assert "not JSON" in tokens["bad_json"][1]["metadata_error"]
    assert len(tokens["exactly400"][0]) == 1
    assert not table[1].exists(), "a member was unpickled"
    summary = json.loads((mixed.output / "summary.json").read_text())
    reasons = [why for _, why, _ in table[0] if why]
    assert summary["rejected_by_reason"] == {
        why: reasons.count(why) for why in sorted(set(reasons))
    }


def test_reject_rate_decides_the_exit_status(mixed, tokenizer):
    assert mixed.done.returncode == 1
    problem = [line for line in mixed.done.stderr.splitlines() if line.startswith("problem:")]
    assert len(problem) == 1 and "--max-reject-rate 10.0%" in problem[0]
    flags = ("--input", mixed.output.parent / "mixed.tar", "--tokenizer", tokenizer)
    done = run_job("tokenize", *flags, "--output", mixed.output, "--max-reject-rate", 1)
    assert (done.returncode, done.stderr) == (0, "")


def test_good_formats_agree_with_16_khz_mono(mixed, record_property):
    tokens = {
        key: array for key, (array, _) in read_tokens(mixed.output / "shards/mixed.tar").items()
    }
    seconds = len(speech()) / RATE
    for row in rows_of(mixed.output / "reports/mixed.parquet"):
        if row["status"] == "ok" and row["key"] != "exactly400":
            assert row["duration_s"] == pytest.approx(seconds, abs=0.001), row["key"]
    same = {"mono": ("stereo", "rate44100", "rate48000", "bits24", "float", "pickled", "bad_json")}
    same["rate8000_as_16000"] = ("rate8000",)
    for reference, keys in same.items():
        for key in keys:
            assert abs(len(tokens[key]) - len(tokens[reference])) <= 1, key
            share = agreement(tokens[key], tokens[reference])
            record_property(f"agreement_{key}", share)
            assert share >= 0.95, key
    # Lossy formats change the sound: only the length must agree.
    for key in ("mp3", "ogg", "opus"):
        record_property(f"agreement_{key}", agreement(tokens[key], tokens["mono"]))
        assert abs(len(tokens[key]) - len(tokens["mono"])) <= 1, key


@pytest.fixture(scope="module")
def broken(tokenizer, tmp_path_factory) -> Run:
    """A run over a tar that is cut within a member, one with a damaged header, one that is no tar,
    and one with a recording over the maximum duration.
    """
    folder = tmp_path_factory.mktemp("broken")
    content = (SPEECH / "speech-000000.tar").read_bytes()
    flacs = flacs_of_speech()
    damaged = bytearray(content)
    damaged[flacs[9].offset : flacs[9].offset + 200] = b"\xa5" * 200
    long = audio(np.resize(speech(), 31 * RATE))
    silence = audio(np.zeros(RATE, np.float32))
    (folder / "in").mkdir()
    for name, data in (
        ("cut", content[: flacs[5].offset_data + 1000]),
        ("damaged", damaged),
        ("long", tar(("long.flac", long), ("silence.flac", silence))),
        ("noise", np.random.default_rng(0).bytes(20_000)),
    ):
        (folder / f"in/{name}.tar").write_bytes(data)
    flags = ("--input", folder / "in", "--tokenizer", tokenizer, "--output", folder / "out")
    limits = ("--max-duration", 30, "--max-reject-rate", 1)
    return Run(folder / "out", run_job("tokenize", *flags, *ONE_THREAD, *limits))


def flacs_of_speech() -> list[tarfile.TarInfo]:
    """The recordings in a tar of tests/speech."""
    with tarfile.open(SPEECH / "speech-000000.tar") as archive:
        return [info for info in archive if info.name.endswith(".flac")]


@pytest.mark.slow
def test_audio_over_the_maximum_duration_is_rejected(broken, tokenizer):
    """And digital silence is counted. The maximum belongs to the OUTPUT, where it is given."""
    assert "1 of the ok ones are digital silence" in broken.done.stdout
    rows = rows_of(broken.output / "reports/long.parquet")
    assert [(row["key"], row["reason"]) for row in rows] == [
        ("long", "too_long"),
        ("silence", None),
    ]
    assert json.loads((broken.output / "run.json").read_text())["settings"]["max_duration"] == 30
    assert json.loads((broken.output / "summary.json").read_text())["silent"] == 1
    place = ("--input", broken.output.parent / "in", "--output", broken.output)
    again = run_here("tokenize", *place, "--tokenizer", tokenizer)
    assert_refused(again, "--output", "--max-duration 30")


def test_broken_tars_keep_what_can_be_read(good, broken):
    assert broken.done.returncode == 1
    keys = [info.name.removesuffix(".flac") for info in flacs_of_speech()]
    whole = read_tokens(good.output / "shards/speech-000000.tar")
    for name, kept, at in (("cut", 5, keys[5]), ("damaged", 9, ""), ("noise", 0, "")):
        said = broken.done.stderr.splitlines()
        assert any(name in line and "incomplete" in line for line in said)
        rows = rows_of(broken.output / f"reports/{name}.parquet")
        assert [row["key"] for row in rows] == [*keys[:kept], at]
        assert {row["status"] for row in rows[:-1]} <= {"ok"}
        assert (rows[-1]["status"], rows[-1]["reason"]) == ("rejected", "broken_tar")
        tokens = read_tokens(broken.output / f"shards/{name}.tar")
        assert list(tokens) == keys[:kept]
        assert all(np.array_equal(tokens[key][0], whole[key][0]) for key in tokens)
    summary = json.loads((broken.output / "summary.json").read_text())
    assert summary["incomplete_shards"] == ["cut", "damaged", "noise"]
    assert summary["failed"] == {}
