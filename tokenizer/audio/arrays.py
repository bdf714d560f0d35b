"""Waveforms that are in memory already, as arrays or tensors, with the checks an audio file gets.

An array gives the tokens that jobs/tokenize.py gives for a file with the same samples: it is mixed
down, resampled and measured in the same blocks.
"""

import operator

import numpy as np
from torch import Tensor

from tokenizer.audio.decoding import LOWEST_RATE, Utterance, measure
from tokenizer.audio.frames import RECEPTIVE_FIELD
from tokenizer.audio.mixing import mixed_down
from tokenizer.audio.reasons import NOT_FINITE, AudioError
from tokenizer.audio.resampling import resample
from tokenizer.audio.second_decoder import BLOCK_SAMPLES
from tokenizer.errors import UsageError

# More channels than this are taken for a transposed array.
MOST_CHANNELS = 32


def utterance_of(waveform: np.ndarray | Tensor, sample_rate: int) -> Utterance:
    """Mix down, resample to 16 kHz and measure a waveform.

    waveform: (n,) or (n, channels), float in [-1, 1] or int16, on any device. Raises UsageError for
    anything else, for samples that are not finite, for under 400 samples at 16 kHz, and for a
    sample rate that is not a whole number of at least 1,000 Hz.
    """
    rate = _checked_rate(sample_rate)
    samples = _float_samples(waveform)
    step = max(1, BLOCK_SAMPLES // samples.shape[1])
    blocks = (mixed_down(samples[start : start + step]) for start in range(0, len(samples), step))
    try:
        utterance = measure(resample(blocks, rate), keep_samples=1 << 62)
    except AudioError as error:
        if error.reason == NOT_FINITE:
            raise _refused("it has NaN or infinite samples", "remove or replace them") from error
        raise UsageError(
            str(error), "resample the waveform", value=sample_rate, argument="sample_rate"
        ) from error
    if not utterance.num_frames:
        problem = f"it has only {utterance.samples} samples at 16 kHz"
        raise _refused(problem, f"give at least {RECEPTIVE_FIELD}, which is 25 ms")
    return utterance


def _checked_rate(sample_rate: int) -> int:
    try:
        rate = operator.index(sample_rate)
    except TypeError:
        rate = 0
    if rate < LOWEST_RATE:
        raise UsageError(
            "it is not a sample rate of speech",
            f"give a whole number of Hz, at least {LOWEST_RATE}",
            value=sample_rate,
            argument="sample_rate",
        )
    return rate


def _float_samples(waveform: np.ndarray | Tensor) -> np.ndarray:
    """The checked waveform as (n, channels) float32, channels side by side in memory."""
    if isinstance(waveform, Tensor):
        waveform = waveform.detach().cpu()
        waveform = (waveform.float() if waveform.is_floating_point() else waveform).numpy()
    array = np.asarray(waveform)
    int16 = array.dtype.kind == "i" and array.dtype.itemsize == 2
    if array.dtype.kind != "f" and not int16:
        raise _refused(f"its samples are {array.dtype}", "give float in [-1, 1], or int16")
    if array.ndim not in (1, 2):
        raise _refused(f"its shape is {array.shape}", "give (n,), or (n, channels)")
    if not array.size:
        raise _refused("it is empty", f"give at least {RECEPTIVE_FIELD} samples at 16 kHz")
    if array.ndim == 2 and array.shape[1] > MOST_CHANNELS:
        problem = f"its shape {array.shape} means {array.shape[1]} channels"
        raise _refused(problem, "give (n, channels): transpose it if it is (channels, n)")
    with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
        samples = np.ascontiguousarray(array, dtype=np.float32)
    if int16:
        samples = samples / np.float32(1 << 15)
    return samples if samples.ndim == 2 else samples[:, None]


def _refused(problem: str, remedy: str) -> UsageError:
    return UsageError(problem, remedy, argument="waveform")
