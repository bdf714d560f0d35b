"""Long recordings are cut: where, how long, and that nothing is lost or kept in memory."""

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
from here import ingest_here, json_of, reasons_of, rows_of, samples_of, sound_of
from tars import waves

RATE = 16_000


@pytest.fixture(scope="module")
def speech():
    """Utterances of the speech that ships with the project."""
    return waves()


def recording(speech, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Utterances with silence and noise of 4 s between them, and where there is speech."""
    rng = np.random.default_rng(0)
    parts, truth = [], []
    for number in range(count):
        noise = rng.standard_normal(4 * RATE) * (0.003 if number % 2 else 0.0)
        utterance = speech[number % len(speech)]
        loud = np.abs(utterance) > 0.02 * np.abs(utterance).max()
        inside = np.zeros(len(utterance), bool)
        inside[np.flatnonzero(loud)[0] : np.flatnonzero(loud)[-1]] = True
        parts += [noise.astype(np.float32), utterance]
        truth += [np.zeros(len(noise), bool), inside]
    return np.concatenate(parts), np.concatenate(truth)


def test_vad_keeps_the_speech_and_leaves_out_the_rest(speech, tmp_path):
    waveform, truth = recording(speech, 12)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/long.flac", waveform, RATE)
    waveform = soundfile.read(tmp_path / "in/long.flac", dtype="float32")[0]
    ingest_here([tmp_path / "in"], tmp_path / "out", segment="vad", max_seconds=8.0)
    kept = np.zeros(len(waveform), bool)
    for key, sample in samples_of(tmp_path / "out").items():
        about, sound = json_of(sample), sound_of(sample)
        first = round(about["start"] * RATE)
        assert key == f"long-{about['start'] * 1000:08.0f}-{about['end'] * 1000:08.0f}"
        assert about["source"] == about["path"] == "long.flac"
        np.testing.assert_array_equal(sound, waveform[first : first + len(sound)])
        assert not kept[first : first + len(sound)].any()
        kept[first : first + len(sound)] = True
        assert 3.0 <= len(sound) / RATE <= 8.0
    assert kept[truth].mean() > 0.97
    assert (~kept[~truth]).mean() > 0.5  # the shortest segments take in what is around them
    sources = [row for row in rows_of(tmp_path / "out") if row["kind"] == "source"]
    assert [row["samples"] for row in sources] == [len(samples_of(tmp_path / "out"))]


def test_a_recording_without_speech_has_its_reason(tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/silence.wav", np.zeros(5 * RATE), RATE)
    (tmp_path / "in/text.flac").write_text("no audio")
    ingest_here([tmp_path / "in"], tmp_path / "out", segment="vad")
    assert reasons_of(tmp_path / "out") == {"silence": "no_speech", "text": "not_audio"}


@pytest.mark.parametrize("seconds", (7.0, 30.0, 30.5, 59.0, 100.25))
def test_fixed_segments_cover_everything_once(seconds, tmp_path):
    rng = np.random.default_rng(1)
    samples = rng.integers(-9000, 9000, int(seconds * RATE)) / 32768
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/a.wav", samples, RATE, subtype="PCM_16")
    ingest_here([tmp_path / "in"], tmp_path / "out", segment="fixed")
    parts = [sound_of(sample) for sample in samples_of(tmp_path / "out").values()]
    assert max(map(len, parts)) <= 30 * RATE and min(map(len, parts)) >= min(seconds, 15) * RATE
    np.testing.assert_array_equal(np.concatenate(parts), samples.astype(np.float32))


def test_memory_does_not_grow_with_the_recording(tmp_path):
    peaks = []
    for minutes in (4, 16):
        (tmp_path / str(minutes)).mkdir()
        rng = np.random.default_rng(2)
        with soundfile.SoundFile(tmp_path / f"{minutes}/a.flac", "w", RATE, 1) as file:
            for _ in range(minutes * 6):
                file.write(rng.standard_normal(10 * RATE) * 1e-4)
        tracemalloc.start()
        ingest_here([tmp_path / str(minutes)], tmp_path / f"out{minutes}", segment="fixed")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + (8 << 20), peaks


def test_the_damage_of_a_recording_spares_its_other_segments(tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "in").mkdir()
    samples = (rng.standard_normal(90 * RATE) * 0.1).astype(np.float32)
    samples[45 * RATE] = np.nan
    soundfile.write(tmp_path / "in/a.wav", samples, RATE, subtype="FLOAT")
    ingest_here([tmp_path / "in"], tmp_path / "out", segment="fixed", max_seconds=10.0)
    assert reasons_of(tmp_path / "out") == {"a-00040000-00050000": "not_finite"}
    (source,) = [row for row in rows_of(tmp_path / "out") if row["kind"] == "source"]
    assert source["samples"] == len(samples_of(tmp_path / "out")) == 8


def test_another_sample_rate_is_that_of_the_whole_recording(tmp_path):
    (tmp_path / "in").mkdir()
    tone = np.sin(2 * np.pi * 440 * np.arange(44_100 * 4) / 44_100) * 0.5
    soundfile.write(tmp_path / "in/a.wav", np.stack([tone, tone], 1), 44_100)
    ingest_here([tmp_path / "in"], tmp_path / "out", sample_rate=16_000)
    (sample,) = samples_of(tmp_path / "out").values()
    sound, rate = soundfile.read(io.BytesIO(sample["flac"]))
    assert rate == RATE and sound.shape == (4 * RATE,)
    expected = np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE) * 0.5
    assert np.abs(sound - expected)[1000:-1000].max() < 1e-3
