"""jobs/make_pairs.py: what two recordings share, what differs, and equal bytes for equal seeds."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from conftest import SPEECH, run_here, run_job
from refusals import assert_refused
from test_synthesize import needs_engines

from lm.evaluation.benchmarks import read_pairs
from pipeline.evaluation.phone_labels import PhoneLabels
from pipeline.evaluation.versions import Recording, matching_cuts, shift_pitch

RATE = 16_000


def test_pairs_are_made_twice_alike_and_in_twos(tmp_path):
    flags = ("--input", SPEECH, "--tasks", "speaker", "noise", "--pairs-per-task", 6)

    def run(seed_and_folder):
        seed, folder = seed_and_folder
        return run_job("make_pairs", *flags, "--seed", seed, "--output", tmp_path / folder)

    with ThreadPoolExecutor(3) as pool:
        for done in pool.map(run, ((0, "one"), (0, "two"), (1, "three"))):
            assert done.returncode == 0, done.stderr
    made = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in sorted((tmp_path / name).rglob("*"))
            if path.is_file()
        }
        for name in ("one", "two", "three")
    }
    assert made["one"] == made["two"]
    assert made["one"].keys() == made["three"].keys() and made["one"] != made["three"]
    for folder in ("speaker_consistency", "bg_all_consistency"):
        rows = json.loads((tmp_path / "one" / folder / "metadata.json").read_text())
        halves = {}
        for row in rows:
            cut = round(row["cut_s"][0] * RATE)
            for option in (0, 1):
                name = f"{folder}/sample_{row['index']}_{option}.wav"
                wave, rate = soundfile.read(tmp_path / "one" / name, dtype="int16")
                assert rate == RATE
                halves[row["index"], option] = (wave[:cut], wave[cut:])
            assert np.array_equal(halves[row["index"], 0][0], halves[row["index"], 1][0])
        for row, twin in zip(rows[::2], rows[1::2]):
            one, other = row["index"], twin["index"]
            assert row["keys"] == twin["keys"][::-1] and row["group"] == twin["group"]
            # The inconsistent half of one pair is the consistent half of the other.
            assert np.array_equal(halves[one, 1][1], halves[other, 0][1])
            assert np.array_equal(halves[other, 1][1], halves[one, 0][1])
            assert not np.array_equal(halves[one, 0][1], halves[one, 1][1])
            if folder == "speaker_consistency":
                assert row["speakers"][0] != row["speakers"][1]
    groups = [pair.group for pair in read_pairs(tmp_path / "one")]
    assert sorted(groups) == sorted([*"001122"] * 2)
    refused = run_here("make_pairs", *flags, "--seed", 2, "--output", tmp_path / "one")
    assert_refused(refused, "--output", "other seed")
    short = run_job(
        *("make_pairs", "--input", SPEECH, "--tasks", "gender", "--output", tmp_path / "four")
    )
    assert short.returncode == 1 and "gender: 0 of 200 pairs" in short.stderr


@pytest.mark.slow
@needs_engines
def test_voices_that_say_the_same_give_pairs_of_another_gender(tmp_path):
    text, speech = tmp_path / "sentences.txt", tmp_path / "speech"
    subjects = ("the old miller", "my younger sister", "a tired heron", "every second sailor")
    text.write_text(
        " ".join(f"Soon {who} waited by the river until the noon bell." for who in subjects)
    )
    made = run_job(
        *("synthesize", "--output", speech, "--engines", "flite", "espeak-ng", "--same-texts"),
        *("--hours", 0.03, "--text", text),
    )
    assert made.returncode == 0, made.stderr
    flags = ("--input", speech / "b", "--phones", speech / "b/phones.jsonl", "--tasks", "gender")
    done = run_job("make_pairs", *flags, "--pairs-per-task", 4, "--output", tmp_path / "pairs")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "pairs/gender_consistency/metadata.json").read_text())
    for row in rows:
        assert sorted(version[-3:] for version in row["versions"]) == ["(f)", "(m)"]


def test_two_voices_are_cut_at_the_same_phone():
    labels = PhoneLabels()
    # Both have a pause near the middle, at different times.
    spoken = {"a": [10, 12, 10, 12, 14, 12], "b": [10, 24, 10, 16, 20, 16]}
    waves = {}
    for key, lengths in spoken.items():
        names = ["SIL", "AA", "B", "SIL", "CH", "D"]
        phones = [name for name, size in zip(names, lengths) for _ in range(size)]
        labels.add(json.dumps({"key": key, "frame_ms": 10, "phones": phones}))
        waves[key] = np.ones(len(phones) * 160, np.float32)
        waves[key][: lengths[0] * 160] = 0
    recordings = [
        Recording(key=key, wave=wave, phones=labels.seconds_and_names(key))
        for key, wave in waves.items()
    ]
    assert recordings[0].phones == (
        0.01,
        ["SIL"] * 10 + ["AA"] * 12 + ["B"] * 10 + ["SIL"] * 12 + ["CH"] * 14 + ["D"] * 12,
    )
    assert matching_cuts(*recordings) == (38 * 160, 52 * 160)
    other = Recording(key="c", wave=waves["a"], phones=(0.01, ["X", "Y"] * 35))
    assert matching_cuts(recordings[0], other) is None
    # Without phones: the same share of the speech between the silences, at a quiet place nearby.
    one, two = (Recording(key=key, wave=wave) for key, wave in waves.items())
    first, second = matching_cuts(one, two)
    shares = [
        (cut - 1600) / (len(wave) - 1600) for cut, wave in ((first, one.wave), (second, two.wave))
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.08)


def test_a_shift_of_pitch_keeps_the_length():
    times = np.arange(2 * RATE) / RATE
    wave = (0.3 * np.sin(2 * np.pi * 200 * times)).astype(np.float32)
    for semitones in (3.0, -3.0):
        shifted = shift_pitch(wave, semitones)
        spectrum = np.abs(np.fft.rfft(shifted[4000:28_000]))
        assert len(shifted) == len(wave)
        assert spectrum.argmax() * RATE / 24_000 == pytest.approx(200 * 2 ** (semitones / 12), 0.01)
        assert shifted.std() == pytest.approx(wave.std(), rel=0.02)
