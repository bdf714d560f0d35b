"""Channels → mono, with a check that mixing has not cancelled the speech."""

import numpy as np

from tokenizer.audio.reasons import CHANNELS_CANCEL, NOT_FINITE, AudioError

# A mix that has under a fiftieth of its channels' mean power has cancelled them. What is left may
# be the noise of a codec, such as Vorbis at its lowest quality.
CANCELLED_POWER = 0.02
# The share of the channels' energy that may be lost so.
CANCELLED_SHARE = 0.02
# Power below that of half a step of 16 bits is that of no sound.
LEAST_POWER = 2.0**-32
SPAN = 4096  # samples that are judged together


def mixed_down(block: np.ndarray) -> np.ndarray:
    """(n, channels) float32 → (n,), the channels' mean. Raises AudioError(NOT_FINITE).

    (n, 1) may be int16, and stays so.
    """
    if block.shape[1] == 1:
        mono = block[:, 0]
    elif block.shape[1] == 2:  # the bits that `mean` gives, in a third of the time
        mono = (block[:, 0] + block[:, 1]) * np.float32(0.5)
    else:
        mono = block.mean(axis=1)
    if mono.dtype.kind == "f" and not np.isfinite(mono).all():
        raise AudioError(NOT_FINITE)
    return mono


class Mixer:
    """Mixes the blocks of one file, and notices speech that is lost by it."""

    def __init__(self) -> None:
        self._energy = self._cancelled = 0.0

    def mix(self, block: np.ndarray) -> np.ndarray:
        """(n, channels) float32 → (n,), the channels' mean. Raises AudioError(NOT_FINITE)."""
        mono = mixed_down(block)
        if block.shape[1] > 1 and len(block):
            starts = np.arange(0, len(block), SPAN)
            power = np.einsum("nc,nc->n", block, block) / block.shape[1]
            channels = np.add.reduceat(power, starts, dtype=np.float64)
            mixed = np.add.reduceat(mono * mono, starts, dtype=np.float64)
            lengths = np.diff(starts, append=len(block))
            loud = channels > LEAST_POWER * lengths
            self._energy += float(channels[loud].sum())
            self._cancelled += float(channels[loud & (mixed < CANCELLED_POWER * channels)].sum())
        return mono

    def check(self) -> None:
        """Raises AudioError(CHANNELS_CANCEL) if the mix lacks speech that the channels have."""
        if self._cancelled > CANCELLED_SHARE * self._energy:
            share = self._cancelled / self._energy
            detail = f"{share:.0%} of the channels' energy is lost when they are mixed"
            raise AudioError(CHANNELS_CANCEL, detail)
