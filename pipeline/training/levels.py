"""Crops as an encoder hears them: at which level, and with which padding.

The variance of a stream, or of an utterance that is not normalised, is not known. Crops have unit
variance, and an encoder for raw audio gets them at a random level around the nominal one of speech.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tokenizer.audio.frames import SAMPLES_PER_FRAME, num_frames
from tokenizer.config import EncoderConfig

# Levels are drawn up to this far, in dB, from the nominal one.
LEVEL_SPREAD = 12.0
# Factor on raw audio for an encoder that was trained on normalised audio: speech at -24 dBFS then
# has unit variance. A power of two, so that it changes no rounding of a weight, in fp16 either.
RAW_GAIN = 16.0
FIRST_CONV = "feature_extractor.conv_layers.0.conv.weight"


def at_random_levels(waves: Tensor, gain: float) -> Tensor:
    """(B, n) of unit variance → each at a random level around the nominal one, 1 / gain."""
    decibels = LEVEL_SPREAD * (2 * torch.rand(len(waves), 1, device=waves.device) - 1)
    return waves * 10 ** (decibels / 20) / gain


def padded_crops(waves: Tensor, left_padding: int) -> Tensor:
    """(B, n) → (B, n'), which has floor((n - 400) / 320) + 1 frames with any left padding.

    left_padding: in samples, copies of the first one. With them, what follows the last whole frame
    is left out: a frame then ends where it started without them.
    """
    if not left_padding:
        return waves
    whole = num_frames(waves.shape[1]) * SAMPLES_PER_FRAME
    return torch.cat([waves[:, :1].expand(-1, left_padding), waves[:, :whole]], dim=1)


def raw_form(
    config: EncoderConfig, weights: dict[str, Tensor]
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """An encoder of normalised audio → the same one for raw audio, with a gain of RAW_GAIN.

    The gain is in the first convolution, whose bias stays: the features are those that the given
    encoder has of audio times RAW_GAIN. An encoder that does not normalise is returned as it is.
    """
    if not config.normalize:
        return config, weights
    weights = {**weights, FIRST_CONV: RAW_GAIN * weights[FIRST_CONV]}
    return replace(config, normalize=False), weights
