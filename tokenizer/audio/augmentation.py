"""Augmentation of the waveforms that an encoder is pre-trained on.

The labels stay those of the clean speech, so the encoder learns to ignore the voice, the channel
and other sounds (utterance and noise mixing: WavLM, arXiv 2110.13900, section 3.2). All waveforms
are (n,) float32 at 16 kHz.
"""

import numpy as np
import soxr

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME, num_frames

# A frame's label describes the sound at its middle sample.
FRAME_MIDDLE = RECEPTIVE_FIELD // 2


def change_speed(
    wave: np.ndarray, labels: np.ndarray, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Play a waveform `factor` times as fast; pitch and formants shift together.

    wave: (n,). labels: (T,), one for each frame. Returns the new waveform and the label of each of
    its frames, which is that of the old frame at the same sound. Labels are empty if no frame fits.
    """
    fast = soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE, quality="QQ")
    fast = fast.astype(np.float32, copy=False)
    frames = num_frames(len(fast))
    middles = (np.arange(frames) * SAMPLES_PER_FRAME + FRAME_MIDDLE) * factor
    old_frames = np.rint((middles - FRAME_MIDDLE) / SAMPLES_PER_FRAME).astype(np.int64)
    return fast, labels[old_frames.clip(0, len(labels) - 1)]


def room(wave: np.ndarray, rt60: float, random: np.random.Generator) -> np.ndarray:
    """Add the reverberation of a random room: six early reflections and a decaying noise tail.

    The direct sound is not delayed, so labels stay valid. rt60: seconds to -60 dB.
    """
    size = int(rt60 * SAMPLE_RATE)
    times = np.arange(size) / SAMPLE_RATE
    tail = random.standard_normal(size) * 10 ** (-3 * times / rt60)
    tail[: int(0.012 * SAMPLE_RATE)] = 0
    tail *= random.uniform(0.15, 0.5) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    for delay in random.uniform(0.002, 0.03, 6):
        tail[int(delay * SAMPLE_RATE)] += random.uniform(-0.35, 0.35)
    size = 1 << (len(wave) + size).bit_length()
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(tail.astype(np.float32), size)
    return np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32, copy=False)


def channel(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Filter with a random channel: a smooth frequency response and, half the time, a band-pass.

    The response is drawn at points an octave apart, with a standard deviation of 5 dB. The pass
    band starts at 50 to 350 Hz and ends at 3,000 to 7,500 Hz, like a telephone's or that of an old
    recording.
    """
    size = 1 << (len(wave) + SAMPLE_RATE // 4).bit_length()
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequency, 62.5) / 62.5)
    gain = 10 ** (np.interp(octaves, np.arange(8), random.normal(0, 5, 8)) / 20)
    if random.random() < 0.5:
        gain *= _edge(frequency, random.uniform(50, 350), 60)
        gain *= 1 - _edge(frequency, random.uniform(3000, 7500), 300)
    filtered = np.fft.irfft(np.fft.rfft(wave, size) * gain.astype(np.float32), size)
    return filtered[: len(wave)].astype(np.float32, copy=False)


def _edge(frequency: np.ndarray, at: float, width: float) -> np.ndarray:
    """A smooth step from 0 to 1 around a frequency; `at` and `width` in Hz."""
    return 1 / (1 + np.exp(-np.clip((frequency - at) / (width / 4), -60, 60)))


def mix(
    wave: np.ndarray,
    other: np.ndarray,
    ratio_db: float,
    longest: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Add a random piece of `other` at a random place of `wave`.

    ratio_db: mean power of `wave` over that of the piece. longest: the piece's largest share of the
    waveform's length. Another speaker's share should stay under half, so that the main speaker is
    the one who speaks most (WavLM, algorithm 1).
    """
    length = int(random.integers(1, max(2, int(longest * len(wave)) + 1)))
    length = min(length, len(other))
    start = int(random.integers(0, len(wave) - length + 1))
    piece = other[(first := int(random.integers(0, len(other) - length + 1))) : first + length]
    power = float(np.mean(np.square(piece))) + 1e-9
    gain = np.sqrt(float(np.mean(np.square(wave))) / power / 10 ** (ratio_db / 10))
    mixed = wave.copy()
    mixed[start : start + length] += np.float32(gain) * piece
    return mixed


def normalize(wave: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, as `measure` in audio/decoding.py computes them."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)).astype(np.float32, copy=False)
