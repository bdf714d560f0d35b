"""Synthetic noises to mix into training speech: coloured noise, hum, clicks, music, babble."""

import numpy as np

from tokenizer.audio.effects import babble, coloured, hum, level
from tokenizer.audio.frames import SAMPLE_RATE as RATE

KINDS = ("white", "pink", "brown", "hum", "clicks", "music", "babble")


def make_noise(kind: str, voices: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """5 to 15 s of a kind of noise, (n,) float32 at 16 kHz, at -32 to -18 dBFS.

    kind: one of KINDS. voices: clean speech, of which babble mixes 4 to 8.
    """
    count = int(rng.uniform(5, 15) * RATE)
    if kind == "hum":
        noise = hum(count, rng)
    elif kind == "clicks":
        noise = _clicks(count, rng)
    elif kind == "music":
        noise = _music(count, rng)
    elif kind == "babble":
        speakers = min(len(voices), int(rng.integers(4, 9)))
        chosen = rng.choice(len(voices), speakers, replace=False)
        noise = babble(count, [voices[i] for i in chosen], rng)
    else:
        slope = {"white": 0.0, "pink": 1.0, "brown": 2.0}[kind] + rng.uniform(-0.3, 0.3)
        noise = coloured(count, slope, rng)
    if kind not in ("music", "babble"):
        noise = noise * _slow_gain(count, rng)
    return level(noise, rng.uniform(-32, -18))


def _slow_gain(count: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) gain that drifts at random, by about 6 dB from second to second."""
    points = max(2, count // RATE)
    decibels = np.interp(np.arange(count), np.linspace(0, count, points), rng.normal(0, 4, points))
    return 10 ** (decibels / 20)


def _clicks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random short bursts of noise or tones with a decay, 1 to 12 a second."""
    total = 0.02 * coloured(count, 1.0, rng)
    for _ in range(int(count / RATE * rng.uniform(1, 12))):
        size = int(rng.uniform(0.002, 0.08) * RATE)
        start = rng.integers(0, count - size)
        decay = np.exp(-np.arange(size) / (size / rng.uniform(3, 8)))
        click = (
            coloured(size, rng.uniform(0, 1.5), rng)
            if rng.random() < 0.6
            else np.sin(2 * np.pi * rng.uniform(300, 4000) * np.arange(size) / RATE)
        )
        total[start : start + size] += rng.uniform(0.1, 1) * decay * click
    return total


def _music(count: int, rng: np.random.Generator) -> np.ndarray:
    """Chords of 1 to 4 harmonic tones on one root; a new chord every 0.2 to 1.6 s."""
    total = np.zeros(count)
    root, start = rng.uniform(80, 220), 0
    beat = int(rng.uniform(0.18, 0.8) * RATE)
    while start < count:
        size = min(int(beat * rng.choice([1, 1, 2])), count - start)
        times = np.arange(size) / RATE
        envelope = np.minimum(1, times / 0.01) * np.exp(-times * rng.uniform(0.5, 5))
        for step in rng.choice([0, 2, 4, 5, 7, 9, 11, 12, 16, 19], rng.integers(1, 5)):
            pitch = root * 2 ** (step / 12) * rng.choice([1, 1, 2])
            for harmonic in range(1, rng.integers(2, 7)):
                tone = np.sin(2 * np.pi * pitch * harmonic * times + rng.uniform(0, 2 * np.pi))
                total[start : start + size] += envelope * tone / harmonic**1.3
        start += size
    return total
