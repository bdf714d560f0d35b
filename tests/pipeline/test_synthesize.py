"""jobs/synthesize.py: shards, phone labels, and equal bytes for equal commands."""

import io
import itertools
import json
import shutil
import tarfile

import numpy as np
import pytest
import soundfile
from conftest import run_here, run_job
from refusals import assert_refused
from stores import snapshot

from pipeline.synthesis.alignment import ARPABET, frame_labels, shift_phones
from pipeline.synthesis.plan import SynthesisSettings
from pipeline.synthesis.sentences import split
from pipeline.synthesis.voices import HALVES, SHARES, foreign_espeak, voices

ENGINES = ("flite", "espeak-ng")
needs_engines = pytest.mark.skipif(
    not all(shutil.which(engine) for engine in ENGINES), reason="flite or espeak-ng is missing"
)
FIELDS = {"speaker", "engine", "voice", "gender", "language", "text", "half"}
VARIED = {"factor", "rate", "pitch"}


def synthesize(output, text, *more, seed=3, run=run_job):
    """Run the job for half a minute of speech in two shards per half; returns the process."""
    flags = ("--hours", 0.016, "--shard-minutes", 0.25, "--seed", seed, "--text", text)
    return run("synthesize", "--output", output, "--engines", *ENGINES, *flags, *more)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file of sentences, so that the tests need no installed texts."""
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    who = ("the old miller", "my younger sister", "a tired heron", "every second sailor")
    what = ("measured the shelf twice", "waited by the river until noon", "sold seven jars of jam")
    path.write_text(" ".join(f"{a} {b}.".capitalize() for a in who for b in what))
    return path


@pytest.fixture(scope="module")
def made(text, tmp_path_factory):
    """A finished OUTPUT. Tests do not change it."""
    output = tmp_path_factory.mktemp("made") / "speech"
    done = synthesize(output, text)
    assert done.returncode == 0, done.stderr
    return output


def utterances(output, half):
    """(key, (n,) audio, metadata) of all samples of a half."""
    for path in sorted((output / half).glob("*.tar")):
        with tarfile.open(path) as tar:
            content = {member.name: tar.extractfile(member).read() for member in tar}
        for name in content:
            key, _, ending = name.partition(".")
            if ending == "flac":
                audio, rate = soundfile.read(io.BytesIO(content[name]))
                assert rate == 16_000 and audio.ndim == 1
                yield key, audio, json.loads(content[f"{key}.json"])


def tars(output):
    """{path below the output: bytes} of all tars."""
    return {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*.tar"))}


@needs_engines
def test_shards_hold_speech_of_two_disjoint_halves(made):
    speakers = {}
    for half in HALVES:
        samples = list(utterances(made, half))
        assert {about["engine"] for _, _, about in samples} == set(ENGINES)
        assert 20 < sum(len(audio) for _, audio, _ in samples) / 16_000 < 70
        for key, audio, about in samples:
            assert set(about) == FIELDS | VARIED and about["half"] == half
            assert 1.5 <= len(audio) / 16_000 <= 15 and 0.003 < np.abs(audio).max() < 0.97
            assert key.startswith(f"{half}-") and "." not in about["speaker"]
        speakers[half] = {about["speaker"] for _, _, about in samples}
    assert not speakers["a"] & speakers["b"]
    assert len(list((made / "noise").glob("*.tar"))) == 1


@needs_engines
def test_phones_are_as_long_as_the_audio_and_silent_where_they_say_so(made):
    for half in HALVES:
        lines = (made / half / "phones.jsonl").read_text().splitlines()
        labels = {row["key"]: row["phones"] for row in map(json.loads, lines)}
        samples = {key: (audio, about) for key, audio, about in utterances(made, half)}
        english = {key for key, (_, about) in samples.items() if about["language"] == "en"}
        assert set(labels) == english
        for key, phones in labels.items():
            audio, _ = samples[key]
            assert len(phones) == len(audio) // 160 and set(phones) <= ARPABET
            power = (audio[: len(phones) * 160].reshape(-1, 160) ** 2).mean(1)
            silent = np.array(phones) == "SIL"
            assert power[silent].sum() < 0.05 * power.sum()


@needs_engines
def test_same_bytes_again_and_what_is_missing_is_finished(made, text, tmp_path):
    output = tmp_path / "speech"
    shutil.copytree(made, output)
    wanted = tars(made)
    (output / "b/b-001.tar").unlink()
    (output / "b/phones.jsonl").unlink()
    left = {name: file for name, file in snapshot(output).items() if name.endswith(".tar")}
    done = synthesize(output, text)
    assert done.returncode == 0, done.stderr
    assert tars(output) == wanted
    assert (output / "b/phones.jsonl").read_text() == (made / "b/phones.jsonl").read_text()
    assert left.items() <= snapshot(output).items()
    assert_refused(synthesize(output, text, seed=4, run=run_here), "--output", "other settings")


@needs_engines
def test_missing_text_and_missing_program_are_refused(text, tmp_path):
    done = synthesize(tmp_path / "out", tmp_path / "none.txt", run=run_here)
    assert_refused(done, "--text", "none.txt")
    for engine, program in (("recordings", "ffmpeg"), ("games", "ancient")):
        done = run_here(
            *("synthesize", "--output", tmp_path / "out", "--engines", engine),
            env={"PATH": str(tmp_path)},
        )
        assert_refused(done, engine, f"apt-get install {program}")


def test_no_voice_is_in_both_halves_and_both_have_women_and_men():
    cast = {
        half: [voice for family in SHARES for voice in voices(half, family)] + foreign_espeak(half)
        for half in HALVES
    }
    names = {half: [voice.speaker for voice in cast[half]] for half in HALVES}
    for half in HALVES:
        assert len(set(names[half])) == len(names[half])
        assert {voice.gender for voice in cast[half]} == {"f", "m"}
        assert {voice.engine for voice in cast[half]} == {"flite", "festival", "espeak-ng"}
    assert not set(names["a"]) & set(names["b"])


def test_labels_follow_speed_and_trimming():
    phones = [("SIL", 0.4), ("AA", 0.6), ("S", 1.0)]
    assert (
        frame_labels(shift_phones(phones, 2.0, 0.1), 0.4) == ["SIL"] * 10 + ["AA"] * 10 + ["S"] * 20
    )
    assert frame_labels(phones, 1.035)[-4:] == ["S", "SIL", "SIL", "SIL"]


def test_sentences_are_plain():
    text = 'He said: "Go home now." Call 911 today! A_b is odd here. Is the mill\nstill there?'
    assert split(text) == ["Go home now", "Is the mill still there"]
    words = itertools.repeat("mill", 21)
    assert split(" ".join(words) + ".") == []


def test_games_come_only_when_asked_for():
    assert SynthesisSettings().engines == (*SHARES, "recordings")
