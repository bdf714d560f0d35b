"""Filters leave samples out, each with its reason and what was measured."""

import json

import numpy as np
import pytest
import soundfile
from here import ingest_here, reasons_of, rows_of, samples_of

from pipeline.ingest.filters import Filters

RATE = 48_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of noise bursts with a quiet background, each wrong in one way but for the first."""
    folder = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    bursts = np.repeat(np.tile([1.0, 0.003], 4), RATE // 2)
    noise = rng.standard_normal(len(bursts)) * 0.1
    good = noise * bursts
    spectrum = np.fft.rfft(good)
    spectrum[int(4000 * len(good) / RATE) :] = 0
    files = {
        "good": good,
        "clipped": np.clip(good * 12, -1, 1),
        "silent": np.concatenate([good[:RATE], np.zeros(9 * RATE)]),
        "narrow": np.fft.irfft(spectrum),
        "noisy": noise,
        "brief": good[: RATE // 2],
    }
    for name, samples in files.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="PCM_16")
        about = {"language": "de" if name == "brief" else "en", "speaker": 7}
        (folder / f"{name}.json").write_text(json.dumps(about))
    return folder


def test_each_filter_finds_its_fault(folder, tmp_path):
    filters = Filters(
        min_duration=1.0, max_clipped=0.001, max_silence=0.5, min_bandwidth=6000, min_snr=20
    )
    ingest_here([folder], tmp_path, filters=filters)
    assert reasons_of(tmp_path) == {
        "clipped": "clipped",
        "silent": "silent",
        "narrow": "narrow_band",
        "noisy": "noisy",
        "brief": "under_min_duration",
    }
    (good,) = samples_of(tmp_path).values()
    assert good["wav"] == (folder / "good.wav").read_bytes()  # measured, and copied as it is
    rows = {row["key"]: row for row in rows_of(tmp_path) if row["kind"] == "sample"}
    assert rows["clipped"]["clipped"] > 0.1 and rows["good"]["clipped"] == 0
    assert rows["silent"]["silence"] == pytest.approx(0.95, abs=0.01)
    assert rows["narrow"]["bandwidth_hz"] == pytest.approx(4000, rel=0.1)
    assert rows["good"]["bandwidth_hz"] > 20_000
    assert rows["good"]["snr_db"] == pytest.approx(50, abs=3) and rows["noisy"]["snr_db"] < 5
    assert rows["good"]["dnsmos"] is None


def test_languages_and_speakers_of_the_metadata(folder, tmp_path):
    ingest_here([folder], tmp_path / "a", filters=Filters(languages=("de",)))
    assert list(samples_of(tmp_path / "a")) == ["brief"]
    assert reasons_of(tmp_path / "a")["good"] == "other_language"
    ingest_here([folder], tmp_path / "b", filters=Filters(speakers=("7",)))
    assert len(samples_of(tmp_path / "b")) == 6


@pytest.mark.slow
def test_dnsmos_is_that_of_its_package(folder, tmp_path):
    from speechmos import dnsmos

    (tmp_path / "in").mkdir()
    samples, _ = soundfile.read(folder / "good.wav", dtype="float32")
    soundfile.write(tmp_path / "in/a.wav", samples[::3], 16_000, subtype="PCM_16")
    ingest_here([tmp_path / "in"], tmp_path / "out", filters=Filters(min_dnsmos=4.9))
    waveform, _ = soundfile.read(tmp_path / "in/a.wav", dtype="float32")
    (row,) = [row for row in rows_of(tmp_path / "out") if row["kind"] == "sample"]
    assert row["reason"] == "low_dnsmos"
    assert row["dnsmos"] == pytest.approx(dnsmos.run(waveform, 16_000)["ovrl_mos"], abs=1e-5)
