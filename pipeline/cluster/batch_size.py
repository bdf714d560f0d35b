"""How much audio a batch is to hold, tried out on an encoder."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.cluster.encoder_actor import EncoderActor
from tokenizer.audio.frames import SAMPLE_RATE

# A batch twice as large has to be this much faster to be worth its memory.
WORTH = 1.05
# Seconds of audio in the first and in the largest batch that is tried.
FIRST_SECONDS, MOST_SECONDS = 120.0, 7680.0


def batch_seconds_of(encoder: EncoderActor, window_seconds: float) -> float:
    """find_batch_seconds in an encoder's process."""
    return find_batch_seconds(encoder.tokenizer.encode_windows, window_seconds)


def find_batch_seconds(encode: Callable[[list[np.ndarray]], Any], window_seconds: float) -> float:
    """Seconds of audio a batch: doubled until it is not faster any more, or does not fit.

    encode: takes waveforms at 16 kHz and returns when they are encoded. window_seconds: of the
    longest window. Raises torch.OutOfMemoryError if one does not fit alone.
    """
    noise = np.random.default_rng(0).standard_normal(int(window_seconds * SAMPLE_RATE))
    window = (0.1 * noise).astype(np.float32)
    count, best, rate = max(1, int(FIRST_SECONDS // window_seconds)), 0, 0.0
    while not best or count * window_seconds <= MOST_SECONDS:
        try:
            seconds = min(_seconds(encode, [window] * count) for _ in range(2))
        except torch.OutOfMemoryError:
            if best:
                break
            if count == 1:
                raise
            count //= 2
            continue
        if best and count / seconds < WORTH * rate:
            break
        best, rate = count, count / seconds
        count *= 2
    return best * window_seconds


def _seconds(encode: Callable[[list[np.ndarray]], Any], windows: list[np.ndarray]) -> float:
    started = time.monotonic()
    encode(windows)
    return time.monotonic() - started
