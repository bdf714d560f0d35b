"""Whether resynthesised speech keeps the melody: F0 over time, beside the original's.

SwiftF0 (arXiv 2508.18440) tracks it: a network of 14,000 parameters that comes with its wheel and
needs ONNX Runtime alone. WORLD and PESQ have to be compiled, Praat is under the GPL, CREPE and PENN
fetch weights, and librosa's pYIN is slower than real time on one core.
"""

from typing import NamedTuple

import numpy as np

from pipeline.scores.unscored import Unscored, needed
from tokenizer.audio.frames import SAMPLE_RATE

# The range of speaking voices, in Hz.
LOWEST, HIGHEST = 60.0, 500.0
# From this confidence on a frame is voiced; its authors calibrated it so.
VOICED = 0.5
# Of fewer frames that are voiced in both a correlation says nothing: a sixth of a second.
LEAST_FRAMES = 10
EMPTY = "it has no samples"
FEW_FRAMES = f"under {LEAST_FRAMES} frames are voiced in both"
CONSTANT = "the pitch does not change"


class PitchTrack(NamedTuple):
    """(T,) F0 in Hz and (T,) whether it is voiced, every 16 ms."""

    hz: np.ndarray
    voiced: np.ndarray


class PitchTracker:
    """SwiftF0 on one thread. name: the package's, for a record."""

    def __init__(self) -> None:
        """Raises UsageError if the package is not installed."""
        self.name = needed("swift_f0", "swift-f0")
        from swift_f0 import SwiftF0

        self.detector = SwiftF0(threads=1)

    def track(self, wave: np.ndarray) -> PitchTrack:
        """The pitch of (n,) float at 16 kHz. Raises Unscored."""
        if not len(wave):
            raise Unscored(EMPTY)
        samples = np.asarray(wave, np.float32)
        found = self.detector.detect(samples, SAMPLE_RATE, fmin=LOWEST, fmax=HIGHEST)
        return PitchTrack(found.pitch_hz, found.confidence >= VOICED)


def f0_correlation(one: PitchTrack, other: PitchTrack) -> float:
    """Pearson's correlation of F0 in Hz over the frames that are voiced in both, -1 to 1.

    What is longer is cut at its end. Raises Unscored for under 10 such frames.
    """
    length = min(len(one.hz), len(other.hz))
    both = one.voiced[:length] & other.voiced[:length]
    if both.sum() < LEAST_FRAMES:
        raise Unscored(FEW_FRAMES)
    first, second = one.hz[:length][both], other.hz[:length][both]
    if not (first.std() > 0 and second.std() > 0):
        raise Unscored(CONSTANT)
    return float(np.corrcoef(first, second)[0, 1])


def voicing_error(one: PitchTrack, other: PitchTrack) -> float:
    """The share of frames that are voiced in one and not in the other, 0 to 1.

    The voicing decision error of Nakatani et al. (2008) and of Chu and Alwan (2009).
    """
    length = min(len(one.voiced), len(other.voiced))
    if not length:
        raise Unscored(EMPTY)
    return float((one.voiced[:length] != other.voiced[:length]).mean())
