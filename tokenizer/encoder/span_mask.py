"""Which frames masked prediction hides: spans of them, as in wav2vec 2.0 (arXiv 2006.11477)."""

import math

import numpy as np


def span_mask(
    shape: tuple[int, int], share: float, span: int, random: np.random.Generator
) -> np.ndarray:
    """(B, T) bool: spans of `span` frames at random, about `share` of all frames masked.

    Spans may overlap, as in wav2vec 2.0; their number allows for it: n spans leave
    (1 - span / T)^n of the frames.
    """
    batch, frames = shape
    span = min(span, frames)
    count = max(1, round(math.log(1 - share) / math.log(1 - span / (frames + span))))
    starts = random.integers(-span + 1, frames, (batch, count))
    place = np.arange(frames)[None, None]
    return ((place >= starts[..., None]) & (place < starts[..., None] + span)).any(1)
