"""Centring: the mean of a window's features, moved towards that of all speech."""

from torch import Tensor

# Centring weighs a window's mean against this many frames of average speech. The mean of half a
# second mostly depends on the word, that of ten seconds on the speaker.
AVERAGE_FRAMES = 50


def centred(features: Tensor, center: Tensor) -> Tensor:
    """Move the mean of a window's features towards that of all speech; (T, D) → (T, D) fp32.

    The mean mostly reflects speaker and channel. Without it, more codes stand for phones (van
    Niekerk et al. 2021, arXiv 2108.00917). It moves by T / (T + 50) of the way, so that a short
    word is not reduced to its mean.
    """
    features = features.float()
    weight = len(features) / (len(features) + AVERAGE_FRAMES)
    return features - weight * (features.mean(0) - center)
