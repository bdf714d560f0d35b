"""What filters ask of a sample's sound, measured while its samples come."""

from collections.abc import Callable

import numpy as np

from pipeline.scores.naturalness import dnsmos
from pipeline.scores.unscored import Unscored
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.resampling import resample

# Frames in which powers are looked at.
FRAME_SECONDS = 0.02
# At full scale but for the last step of 10 bits: what a converter or an editor has clipped.
CLIPPED = 0.999
# A frame under this power, in dB of full scale, is silent.
SILENT_DB = -60.0
# NIST's quick signal-to-noise ratio (STNR, SPQA 2.3): between these percentiles of frame powers.
NOISE, SPEECH = 15, 95
# The mean spectrum ends where it stays under this, in dB of its strongest part: above the steps of
# 16 bits, below the noise of any microphone.
BAND_EDGE_DB = -75.0
SPECTRUM = 2048
LEAST_POWER = 1e-12
# DNSMOS (Reddy et al., 2022) listens to this much at most; it costs a fourteenth of real time.
DNSMOS_SECONDS = 60


class Measures:
    """Measures of one sample. sample_rate: of its sound. names: which of MEASURES are wanted."""

    def __init__(self, sample_rate: int, names: frozenset[str]) -> None:
        self.rate, self.names = sample_rate, names
        self._samples = self._clipped = 0
        self._frame = max(1, round(FRAME_SECONDS * sample_rate))
        self._rest = np.zeros(0, np.float32)
        self._powers: list[np.ndarray] = []
        self._spectrum = np.zeros(SPECTRUM // 2 + 1)
        self._kept: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """The next samples, (n,) float32."""
        self._samples += len(block)
        if "clipped" in self.names:
            self._clipped += int((np.abs(block) >= CLIPPED).sum())
        if "dnsmos" in self.names and self._samples <= DNSMOS_SECONDS * self.rate + len(block):
            self._kept.append(block)
        if not self.names & {"silence", "snr_db", "bandwidth_hz"}:
            return
        samples = np.concatenate([self._rest, block])
        frames, step = len(samples) // self._frame, self._frame
        powers = samples[: frames * step].reshape(frames, step)
        self._powers.append(np.einsum("fs,fs->f", powers, powers, dtype=np.float64) / step)
        self._rest = samples[frames * step :]
        if "bandwidth_hz" in self.names:
            windows = block[: len(block) // SPECTRUM * SPECTRUM].reshape(-1, SPECTRUM)
            spectrum = np.fft.rfft(windows * np.hanning(SPECTRUM).astype(np.float32))
            self._spectrum += (spectrum.real**2 + spectrum.imag**2).sum(0)

    def values(self) -> dict[str, float]:
        """{name: value} once all samples have come."""
        found: dict[str, Callable[[], float]] = {
            "clipped": lambda: self._clipped / max(self._samples, 1),
            "silence": self._silence,
            "snr_db": self._snr,
            "bandwidth_hz": self._bandwidth,
            "dnsmos": self._dnsmos,
        }
        return {name: found[name]() for name in found if name in self.names}

    def _levels(self) -> np.ndarray:
        """The power of each frame in dB of full scale."""
        powers = np.concatenate([np.zeros(0), *self._powers])
        return 10 * np.log10(np.maximum(powers, LEAST_POWER))

    def _silence(self) -> float:
        levels = self._levels()
        return float((levels < SILENT_DB).mean()) if len(levels) else 1.0

    def _snr(self) -> float:
        levels = self._levels()
        if not len(levels):
            return 0.0
        noise, speech = np.percentile(levels, [NOISE, SPEECH])
        return float(speech - noise)

    def _bandwidth(self) -> float:
        peak = self._spectrum.max()
        if not peak:  # silence, or too short to tell
            return 0.0 if self._samples >= SPECTRUM else self.rate / 2
        over = np.flatnonzero(self._spectrum > peak * 10 ** (BAND_EDGE_DB / 10))
        return float(over[-1] * self.rate / SPECTRUM)

    def _dnsmos(self) -> float:
        samples = np.concatenate([np.zeros(0, np.float32), *self._kept])
        samples = samples[: DNSMOS_SECONDS * self.rate]
        waveform = np.concatenate(list(resample([samples], self.rate, SAMPLE_RATE)))
        try:
            return dnsmos(waveform)["ovrl"]
        except Unscored:
            return 0.0
