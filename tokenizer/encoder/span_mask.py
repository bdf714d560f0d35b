"""Which frames masked prediction masks: random spans, as in wav2vec 2.0 (arXiv 2006.11477)."""

import math

import numpy as np


def span_mask(
    shape: tuple[int, int], share: float, span: int, random: np.random.Generator
) -> np.ndarray:
    """(B, T) bool: random spans of `span` frames, which together mask about `share` of all frames.

    Spans may overlap, as in wav2vec 2.0, and their number allows for it: n spans leave
    (1 - span / T)^n of the frames unmasked.
    """
    batch, frames = shape
    span = min(span, frames)
    count = max(1, round(math.log(1 - share) / math.log(1 - span / (frames + span))))
    starts = random.integers(-span + 1, frames, (batch, count))
    place = np.arange(frames)[None, None]
    inside = (place >= starts[..., None]) & (place < starts[..., None] + span)
    return np.asarray(inside.any(axis=1))
