"""Level, silence and elementary noises. All signals are (n,) at 16 kHz."""

import numpy as np

from tokenizer.audio.frames import SAMPLE_RATE as RATE

# Silence that is kept at either end.
MAX_SILENCE_S = 0.3
# A stretch of 10 ms counts as silence when it is this far below the loudest one.
SILENCE_DB = 45
PEAK = 0.95


def loud_span(signal: np.ndarray) -> tuple[int, int] | None:
    """Start and end of the part with at most 0.3 s of silence at each end; None if all silent."""
    frame = RATE // 100
    count = len(signal) // frame
    if count == 0 or not np.isfinite(signal).all():
        return None
    power = (signal[: count * frame].reshape(count, frame).astype(np.float64) ** 2).mean(1)
    if power.max() < 1e-7:
        return None
    loud = np.flatnonzero(power > power.max() * 10 ** (-SILENCE_DB / 10))
    margin = int(MAX_SILENCE_S * RATE)
    return max(0, loud[0] * frame - margin), min(len(signal), (loud[-1] + 1) * frame + margin)


def level(signal: np.ndarray, dbfs: float) -> np.ndarray:
    """Scale to a root mean square of `dbfs`, or lower so that the peak stays within 0.95."""
    gain = 10 ** (dbfs / 20) / (_rms(signal) + 1e-12)
    return (signal * min(gain, PEAK / (np.abs(signal).max() + 1e-12))).astype(np.float32)


def coloured(count: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Noise with a power spectrum of 1 / f^slope: 0 white, 1 pink, 2 brown. Unit RMS."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 40.0)
    noise = np.fft.irfft(spectrum * frequency ** (-slope / 2), count)
    return noise / (_rms(noise) + 1e-12)


def hum(count: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum, near 50, 60, 100 or 120 Hz, with harmonics and a little pink noise."""
    times = np.arange(count) / RATE
    base = rng.choice([50.0, 60.0, 100.0, 120.0]) * rng.uniform(0.99, 1.01)
    total = 0.2 * coloured(count, 1.0, rng)
    for harmonic in range(1, 9):
        phase = rng.uniform(0, 2 * np.pi)
        total += (
            rng.uniform(0.1, 1) / harmonic * np.sin(2 * np.pi * base * harmonic * times + phase)
        )
    return total


def babble(count: int, voices: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The sum of some voices, each looped from a random sample and at a random loudness."""
    total = np.zeros(count)
    for voice in voices:
        part = np.resize(np.roll(voice, rng.integers(len(voice))), count)
        total += part / (_rms(part) + 1e-12) * rng.uniform(0.4, 1.0)
    return total


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))
