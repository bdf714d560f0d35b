"""Audio of every format and rate gives the same 16 kHz waveform, or an error with a reason.

Files are written with soundfile, then cut, damaged or re-labelled byte by byte.
"""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
from audio_bytes import read, reason
from transformers import Wav2Vec2FeatureExtractor

from tokenizer.audio import decoding as audio
from tokenizer.audio import sample_file
from tokenizer.audio.decoding import decode, measure, read_utterance, resample
from tokenizer.audio.reasons import NOT_FINITE
from tokenizer.audio.windows import Windowing

FORMATS = {
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "wav16": {"format": "WAV", "subtype": "PCM_16"},
    "wav24": {"format": "WAV", "subtype": "PCM_24"},
    "wav-float": {"format": "WAV", "subtype": "FLOAT"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}
# Relative error of a few tones after 16 bits, or a lossy codec. A shift by one sample gives 0.3.
ERROR = {"flac": 2e-4, "wav16": 2e-4, "wav24": 1e-6, "wav-float": 1e-6}
LOSSY_ERROR = 0.2


def encoded(signal, rate=16_000, form="wav16", **options):
    """A signal as the bytes of a file."""
    file = io.BytesIO()
    soundfile.write(file, signal, rate, **FORMATS[form], **options)
    return file.getvalue()


def tones(seconds, rate, channels=1):
    """Two tones for each channel, all below 4 kHz, the Nyquist frequency at 8 kHz."""
    t = np.arange(round(seconds * rate)) / rate
    pairs = [(220 + 150 * c, 1234 + 300 * c) for c in range(channels)]
    waves = [sum(0.2 * np.sin(2 * np.pi * f * t) for f in pair) for pair in pairs]
    return np.stack(waves, 1).astype(np.float32)


@pytest.fixture(scope="module")
def hiss():
    """Ten seconds of noise at 16 kHz: several pages of Ogg, many frames of flac and mp3."""
    return (0.2 * np.random.default_rng(0).standard_normal(160_000)).astype(np.float32)


@pytest.fixture(scope="module", params=FORMATS)
def hiss_file(request, hiss):
    return encoded(hiss, form=request.param)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_and_rate_gives_the_waveform(form, rate, channels):
    if form == "opus" and rate == 44_100:
        rate = 24_000  # Opus knows no 44.1 kHz
    signal = tones(1.5, rate, channels)
    utterance = read(encoded(signal, rate, form))
    assert utterance.waveform.dtype == np.float32
    assert (utterance.samples, utterance.sample_rate) == (24_000, rate)
    assert utterance.samples == len(utterance.waveform)
    assert utterance.duration_s == pytest.approx(1.5)
    assert utterance.num_frames == (24_000 - 400) // 320 + 1
    expected = tones(1.5, 16_000, channels).mean(1)
    # Codecs and resamplers are inexact at both ends.
    inner = slice(800, -800)
    difference, expected = utterance.waveform[inner] - expected[inner], expected[inner]
    bound = ERROR.get(form, LOSSY_ERROR)
    assert np.linalg.norm(difference) < bound * np.linalg.norm(expected)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_blocks_give_what_one_call_gives(rate, monkeypatch):
    signal = (0.3 * np.random.default_rng(1).standard_normal(rate * 2 + 123)).astype(np.float32)
    expected = signal if rate == 16_000 else soxr.resample(signal, rate, 16_000)
    data = encoded(signal, rate, "wav-float")
    for block in (777, 1 << 14, 1 << 19):
        monkeypatch.setattr(audio, "BLOCK_SAMPLES", block)
        blocks, own_rate = decode(io.BytesIO(data))
        assert own_rate == rate
        assert np.array_equal(np.concatenate(list(resample(blocks, rate))), expected)


@pytest.mark.parametrize("kept", ["all but a byte", 0.999, 0.98, 0.9, 0.6, 0.2, "20 bytes"])
def test_a_cut_file_is_detected(hiss_file, kept):
    assert reason(hiss_file) is None
    if kept == "20 bytes":  # not even a header
        assert reason(hiss_file[:20]) in (audio.NOT_AUDIO, audio.TRUNCATED)
    else:
        size = len(hiss_file) - 1 if kept == "all but a byte" else int(len(hiss_file) * kept)
        assert reason(hiss_file[:size]) == audio.TRUNCATED


@pytest.mark.parametrize("form", ["vorbis", "opus"])
def test_an_ogg_cut_in_its_only_page_of_sound_is_detected(form):
    data = encoded(tones(0.5, 16_000), form=form)
    assert reason(data) is None
    for missing in (1, 50, 500):
        # libsndfile does not open an Opus without a whole page.
        assert reason(data[:-missing]) in (audio.TRUNCATED, audio.NOT_AUDIO), missing


def test_wav_headers_of_unknown_length(hiss):
    # An encoder that writes to a pipe cannot fill in the length afterwards; nothing is missing.
    data = encoded(hiss, form="wav16")
    at = data.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36):
        assert read(data[:at] + struct.pack("<I", size) + data[at + 4 :]).samples == len(hiss)
    # A chunk after the sound is ignored.
    assert read(data + b"LIST\4\0\0\0INFO").samples == len(hiss)


def test_flac_from_a_pipe(hiss):
    # STREAMINFO's 36 bits of total samples, from half a byte at 21 on, are zero: unknown.
    data = encoded(hiss, form="flac")
    piped = data[:21] + bytes([data[21] & 0xF0, 0, 0, 0, 0]) + data[26:]
    assert reason(piped[: len(piped) // 2]) == audio.TRUNCATED
    np.testing.assert_array_equal(read(piped).waveform, read(data).waveform)


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_without_a_xing_frame(mode, rate):
    # Radio streams, and encoders that write to a pipe, have no first frame with the length.
    loudness = np.sin(np.arange(10 * rate) / rate) ** 2
    signal = 0.3 * loudness * np.random.default_rng(2).standard_normal(10 * rate)
    data = encoded(signal, rate, "mp3", bitrate_mode=mode, compression_level=0.5)
    second = data.index(data[:2], 4)
    assert b"Xing" in data[:second] or b"Info" in data[:second]
    # Without it a decoder cannot trim its padding of up to three frames: under 80 ms.
    assert 10.0 <= read(data[second:]).duration_s < 10.3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(hiss, value):
    signal = hiss.copy()
    signal[150_000] = value
    assert reason(encoded(signal, form="wav-float")) == NOT_FINITE


def test_files_without_audio_or_with_too_little():
    for data in (b"", b"so much for that\n" * 500, b'{"text": "hello"}', bytes(5000)):
        assert reason(data) == audio.NOT_AUDIO
    assert reason(encoded(np.empty(0, np.float32))) == audio.EMPTY
    for form in FORMATS:
        assert reason(encoded(tones(1, 16_000)[:399], form=form)) == audio.TOO_SHORT
        assert read(encoded(tones(1, 16_000)[:400], form=form)).num_frames == 1
    # 400 samples at 16 kHz, whatever the rate of the file.
    assert reason(encoded(tones(1, 48_000)[:1197], 48_000)) == audio.TOO_SHORT
    assert read(encoded(tones(1, 48_000)[:1200], 48_000)).num_frames == 1


def test_damaged_bytes_raise_only_audio_errors(hiss):
    random = np.random.default_rng(3)
    reasons = {None, audio.NOT_AUDIO, audio.TRUNCATED, audio.EMPTY, audio.TOO_SHORT}
    reasons.add(NOT_FINITE)
    for form in FORMATS:
        data = encoded(hiss[:8000], form=form)
        for _ in range(150):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 3):
                # Except a WAV's sample rate: at 1 Hz half a second would become hours.
                if not (data.startswith(b"RIFF") and 24 <= place < 28):
                    damaged[place] = random.integers(256)
            assert reason(bytes(damaged)) in reasons


def test_moments_are_those_of_the_whole_utterance(hiss):
    # Blocks of different mean and level, with an offset like that of cheap microphones.
    blocks = [hiss[:1000] * 3 + 0.4, hiss[1000:1001], hiss[1001:90_000] * 0.01 - 0.2]
    whole = np.concatenate(blocks).astype(np.float64)
    utterance = measure(blocks, keep_samples=10**6)
    assert utterance.samples == len(whole)
    assert utterance.mean == pytest.approx(whole.mean(), abs=1e-9)
    assert utterance.scale == pytest.approx((whole.var() + 1e-7) ** -0.5, rel=1e-7)
    # As WavLM was trained.
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    theirs = extractor(utterance.waveform, sampling_rate=16_000).input_values[0]
    ours = (utterance.waveform - utterance.mean) * utterance.scale
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    silence = measure([np.zeros(1000, np.float32)], keep_samples=0)
    assert (silence.mean, silence.scale) == (0, pytest.approx(1e-7**-0.5))
    # Half an hour, every other second loud: sums in fp32 would drift.
    long = measure([np.full(16_000, level, np.float32) for level in (0.1, 0.4)] * 900, 0)
    assert long.mean == pytest.approx(0.25, rel=1e-7)
    assert long.scale == pytest.approx((0.15**2 + 1e-7) ** -0.5, rel=1e-6)


@pytest.mark.parametrize("form", ["flac", "wav16", "vorbis", "opus", "mp3"])
@pytest.mark.parametrize("room", [1 << 30, 100_000], ids=["on disk", "no room on disk"])
def test_a_long_waveform_is_cut_from_disk_or_decoded_again(form, room, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 30_000)
    monkeypatch.setattr(sample_file, "BLOCK_SAMPLES", 7000)
    monkeypatch.setattr(sample_file, "MOST_BYTES", room)
    data = encoded(tones(6, 24_000, 2), 24_000, form)
    kept = read(data)
    assert read(data, keep_samples=kept.samples).waveform is not None
    again = read(data, keep_samples=kept.samples - 1)
    assert again.waveform is None and (again.on_disk is None) == (room < 1 << 30)
    assert (again.samples, again.mean, again.scale) == (kept.samples, kept.mean, kept.scale)
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(again.blocks())), kept.waveform)
    windowing = Windowing(frames=60, context=7, normalize=True)
    plan = windowing.plan(kept.num_frames)
    assert len(plan) > 5
    pairs = zip(windowing.cut(again, plan), windowing.cut(kept, plan), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_half_an_hour_is_cut_in_little_memory():
    rate, seconds = 8000, 1800
    wave = (np.sin(np.arange(rate * 60) / 3) * 9000).astype(np.int16)
    file = io.BytesIO(encoded(np.tile(wave, seconds // 60), rate))
    windowing = Windowing.of_seconds(window_seconds=30, context_seconds=2, normalize=True)
    tracemalloc.start()
    try:
        utterance = read_utterance(file, windowing.samples)
        assert utterance.waveform is None and utterance.samples == seconds * 16_000
        plan = windowing.plan(utterance.num_frames)
        lengths = {len(wave) for wave in windowing.cut(utterance, plan)}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lengths == {1499 * 320 + 400}
    assert utterance.num_frames == 89_999
    assert sum(w.keep_to - w.keep_from for w in plan) == 89_999
    # The whole waveform is 115 MB at 16 kHz.
    assert peak < 60e6


def test_an_absurd_sample_rate_does_not_fill_memory():
    # 40 kB that claim to be half an hour at 10 Hz: as one block, 128 MB at 16 kHz.
    data = encoded(np.zeros(20_000, np.int16), 10)
    tracemalloc.start()
    try:
        assert reason(data) in (None, audio.NOT_AUDIO)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
