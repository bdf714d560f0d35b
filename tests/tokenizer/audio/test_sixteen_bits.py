"""16-bit sound at 16 kHz may stay 16-bit up to the encoder: not one bit of a window changes."""

import io

import numpy as np
import pytest
import soundfile
import torch

from pipeline.cluster.computing import copied
from tokenizer.audio.decoding import read_utterance
from tokenizer.audio.windows import RawWindow, Windowing

RANDOM = np.random.default_rng(0)
# Loud noise with the two extremes, and a quiet tail with an offset.
NOISE = np.concatenate([RANDOM.integers(-(1 << 15), 1 << 15, 90_000), RANDOM.integers(3, 9, 9_999)])
NOISE[:2] = -(1 << 15), (1 << 15) - 1
SOUNDS = {
    # (samples, rate, format and subtype, whether it stays 16-bit)
    "flac": (NOISE.astype(np.int16), 16_000, ("FLAC", "PCM_16"), True),
    "wav": (NOISE.astype(np.int16), 16_000, ("WAV", "PCM_16"), True),
    "stereo": (np.stack([NOISE, NOISE // 3], 1).astype(np.int16), 16_000, ("WAV", "PCM_16"), False),
    "24 bits": (NOISE.astype(np.int32) * 70_000, 16_000, ("FLAC", "PCM_24"), False),
    "float": (NOISE / 40_000, 16_000, ("WAV", "FLOAT"), False),
    "other rate": (NOISE.astype(np.int16), 22_050, ("FLAC", "PCM_16"), False),
}


def encoded(name: str) -> bytes:
    samples, rate, (form, subtype), _ = SOUNDS[name]
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def raw_windows(data: bytes, windowing: Windowing, keep: int, keep_int16: bool) -> list[RawWindow]:
    utterance = read_utterance(io.BytesIO(data), keep, keep_int16=keep_int16)
    return list(windowing.cut_raw(utterance, windowing.plan_samples(utterance.samples)))


@pytest.mark.parametrize("keep", [0, 1 << 30])
@pytest.mark.parametrize("frames", [50, 1500])
@pytest.mark.parametrize("normalize, padding", [(True, 0), (False, 399)])
def test_windows_are_the_same_to_the_last_bit(keep, frames, normalize, padding):
    windowing = Windowing(frames=frames, context=5, normalize=normalize, left_padding=padding)
    # Two streams joined in one file are 16-bit only if both are.
    sounds = {name: (encoded(name), short) for name, (*_, short) in SOUNDS.items()}
    sounds["joined"] = (encoded("flac") + encoded("flac"), True)
    sounds["joined, of two kinds"] = (encoded("flac") + encoded("24 bits"), False)
    for name, (data, short) in sounds.items():
        wide = raw_windows(data, windowing, keep, keep_int16=False)
        kept = raw_windows(data, windowing, keep, keep_int16=True)
        assert {window.samples.dtype for window in wide} == {np.dtype(np.float32)}, name
        assert {window.samples.dtype == np.int16 for window in kept} == {short}, name
        assert len(wide) == len(kept) and sum(map(len, kept)) > 90_000 * 0.7, name
        for one, other in zip(wide, kept):
            assert one.waveform().dtype == np.float32
            assert one.waveform().tobytes() == other.waveform().tobytes(), name


def test_a_batch_in_one_piece_gives_the_same_waveforms():
    """What a GPU gets, here on the CPU."""
    short = [RawWindow(NOISE[:n].astype(np.int16), 0.01, 3.3) for n in (400, 777)]
    wide = [RawWindow(window.waveform()) for window in short]
    for windows in (short, wide, short + wide):
        waves = copied(windows, torch.device("cpu"), None).waveforms()
        assert [wave.dtype for wave in waves] == [torch.float32] * len(windows)
        for wave, window in zip(waves, windows):
            assert wave.numpy().tobytes() == window.waveform().tobytes()
