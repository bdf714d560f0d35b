"""What is done to a waveform before the encoder sees it, so that it learns to hear through it.

The labels stay those of the clean speech: the encoder must find them though the voice, the channel
or the company has changed (utterance and noise mixing: WavLM, arXiv 2110.13900, section 3.2).
"""

import numpy as np
import soxr

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME, num_frames

# A frame stands for what lies at its middle.
FRAME_MIDDLE = RECEPTIVE_FIELD // 2


def change_speed(
    wave: np.ndarray, labels: np.ndarray, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Play a waveform `factor` times as fast: pitch and formants move together, as another voice's.

    wave: (n,). labels: (T,), one for each frame. Returns the new waveform and each of its frames'
    label, taken from where in the old one the frame's middle was; both empty if none is left.
    """
    fast = soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE, quality="QQ")
    fast = fast.astype(np.float32, copy=False)
    frames = num_frames(len(fast))
    middles = (np.arange(frames) * SAMPLES_PER_FRAME + FRAME_MIDDLE) * factor
    before = np.rint((middles - FRAME_MIDDLE) / SAMPLES_PER_FRAME).astype(np.int64)
    return fast, labels[before.clip(0, len(labels) - 1)]


def room(wave: np.ndarray, rt60: float, random: np.random.Generator) -> np.ndarray:
    """Put a voice in a made-up room: the direct sound, six early echoes, and a decaying noise.

    The direct sound stays where it was, so labels stay right. rt60: seconds to -60 dB.
    """
    size = int(rt60 * SAMPLE_RATE)
    times = np.arange(size) / SAMPLE_RATE
    tail = random.standard_normal(size) * 10 ** (-3 * times / rt60)
    tail[: int(0.012 * SAMPLE_RATE)] = 0
    tail *= random.uniform(0.15, 0.5) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    for place in random.uniform(0.002, 0.03, 6):
        tail[int(place * SAMPLE_RATE)] += random.uniform(-0.35, 0.35)
    size = 1 << (len(wave) + size).bit_length()
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(tail.astype(np.float32), size)
    return np.fft.irfft(spectrum, size)[: len(wave)].astype(np.float32, copy=False)


def channel(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Send it through a made-up microphone and line: a smooth random response, often a narrow band.

    The response wanders by 5 dB between points an octave apart. In half of the cases only a band
    is left, from 50 to 350 up to 3,000 to 7,500 Hz: a telephone's, or an old recording's.
    """
    size = 1 << (len(wave) + SAMPLE_RATE // 4).bit_length()
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequency, 62.5) / 62.5)
    gain = 10 ** (np.interp(octaves, np.arange(8), random.normal(0, 5, 8)) / 20)
    if random.random() < 0.5:
        gain *= _edge(frequency, random.uniform(50, 350), 60)
        gain *= 1 - _edge(frequency, random.uniform(3000, 7500), 300)
    heard = np.fft.irfft(np.fft.rfft(wave, size) * gain.astype(np.float32), size)
    return heard[: len(wave)].astype(np.float32, copy=False)


def _edge(frequency: np.ndarray, at: float, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip((frequency - at) / (width / 4), -60, 60)))


def mix(
    wave: np.ndarray,
    other: np.ndarray,
    ratio_db: float,
    longest: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Lay a random piece of `other` over a random place of `wave`, at most `longest` of its length.

    ratio_db: energy of `wave` over that of the piece, each over its own length. Under half of the
    waveform, so that the main speaker is the one who speaks most (WavLM, algorithm 1).
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
    """Zero mean and unit variance, as `measure` in audio.py has it."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)).astype(np.float32, copy=False)
