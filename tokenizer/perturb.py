"""What is done to a waveform before the encoder sees it, so that it learns to hear through it.

The labels stay those of the clean speech: the encoder must find them though the voice, the channel
or the company has changed (utterance and noise mixing: WavLM, arXiv 2110.13900, section 3.2).
"""

import numpy as np
import soxr

from tokenizer.audio import RECEPTIVE_FIELD, SAMPLES_PER_FRAME, num_frames

# A frame stands for what lies at its middle.
FRAME_MIDDLE = RECEPTIVE_FIELD // 2


def change_speed(
    wave: np.ndarray, labels: np.ndarray, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Play a waveform `factor` times as fast: pitch and formants move together, as another voice's.

    wave: (n,). labels: (T,), one for each frame. Returns the new waveform and each of its frames'
    label, taken from where in the old one the frame's middle was; both empty if none is left.
    """
    rate = 16_000
    fast = soxr.resample(wave, rate * factor, rate, quality="QQ").astype(np.float32, copy=False)
    frames = num_frames(len(fast))
    middles = (np.arange(frames) * SAMPLES_PER_FRAME + FRAME_MIDDLE) * factor
    before = np.rint((middles - FRAME_MIDDLE) / SAMPLES_PER_FRAME).astype(np.int64)
    return fast, labels[before.clip(0, len(labels) - 1)]


def tilt(wave: np.ndarray, amount: float) -> np.ndarray:
    """Raise high frequencies (amount under 0) or low ones: y[t] = x[t] + amount x[t - 1]."""
    tilted = wave.copy()
    tilted[1:] += np.float32(amount) * wave[:-1]
    return tilted


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
