"""Factors and offsets that only one side has, multiplied into neighbouring weights.

Import: FocalCodec's blocks can have a learned factor on what they add to the residual, and a
constant one on the modulator. Export: this project standardises features around compressor and
decompressor, and a causal encoder has a gain on its input. Each has a linear layer beside it. The
products are computed in fp64, so that what changes is the last bit of fp32.
"""

import re

import torch
from torch import Tensor

from tokenizer.config import FocalConfig

# The bias of the layer whose output a block adds to the residual, in either generation's names.
BRANCH = re.compile(
    r"((?:de)?compressor\.layers\.\d+\.\w+)\.(modulation|feed_forward)\.out_proj\.bias"
)
GAMMA = re.compile(r"((?:de)?compressor\.layers\.\d+\.\w+)\.(modulation|feed_forward)_gamma")


def gamma_of(bias: str) -> str | None:
    """The name of the factor on a layer's output, by that of the layer's bias; None if not one."""
    found = BRANCH.fullmatch(bias)
    return f"{found[1]}.{found[2]}_gamma" if found else None


def fold_gammas(weights: dict[str, Tensor]) -> None:
    """Multiply each block's factors into the layer before them, in place. Names of theirs."""
    for name in [name for name in weights if GAMMA.fullmatch(name)]:
        gamma = weights.pop(name)
        layer = name.removesuffix("_gamma") + ".out_proj"
        _scale(weights, f"{layer}.weight", gamma[:, None])
        _scale(weights, f"{layer}.bias", gamma)


def fold_modulator_mean(weights: dict[str, Tensor], module: str) -> None:
    """Divide a module's modulators by their number of contexts, in place. Names of theirs."""
    for name in weights:
        if name.startswith(f"{module}.") and name.endswith("modulation.context_proj.weight"):
            outputs, inputs = weights[name.replace("context_proj", "in_proj")].shape
            _scale(weights, name, torch.tensor(1 / (outputs - 2 * inputs), dtype=torch.float64))


def fold_gain(weights: dict[str, Tensor], gain: float) -> None:
    """Multiply a gain on the encoder's input into its first convolution, in place. Our names."""
    if gain != 1:
        name = "encoder.feature_extractor.conv_layers.0.conv.weight"
        _scale(weights, name, torch.tensor(gain, dtype=torch.float64))


def fold_standardisation(weights: dict[str, Tensor], codec: FocalConfig, last_layer: int) -> None:
    """Fold "features.mean" and "features.scale", in place. Our names; both are taken out.

    A compressor gets (x - mean) / scale, and a decompressor's output y becomes y · scale + mean.

    A first layer that takes two frames pads an odd last one with zeros, which are then zeros of
    raw features and no longer of standardised ones. There the mean is taken off the bias of the
    encoder's last layer, `last_layer`, whose output is the features.
    """
    mean, scale = weights.pop("features.mean").double(), weights.pop("features.scale").double()
    if scale == 1 and not mean.any():
        return
    first, last = "compressor.layers.0.downscale.downscale", len(codec.hidden) - 1
    if codec.factors[0] > 1:
        layer = f"encoder.encoder.layers.{last_layer}.feed_forward.output_dense.bias"
        _shift(weights, layer, -mean)
    else:
        kernel = weights[f"{first}.weight"].double()  # (out, in, 1)
        _shift(weights, f"{first}.bias", -(kernel.sum(-1) @ mean) / scale)
    _scale(weights, f"{first}.weight", 1 / scale)
    upscale, refiner = f"decompressor.layers.{last}.upscale.upscale", "decompressor.refiner"
    _scale(weights, f"{upscale}.weight", scale)
    _scale(weights, f"{upscale}.bias", scale)
    if not codec.causal:
        _shift(weights, f"{upscale}.bias", mean)
        return
    _scale(weights, f"{refiner}.in_proj.weight", 1 / scale)
    _scale(weights, f"{refiner}.out_proj.weight", scale)
    _scale(weights, f"{refiner}.out_proj.bias", scale)
    _shift(weights, f"{refiner}.out_proj.bias", mean.repeat(codec.chunk_frames))


def _scale(weights: dict[str, Tensor], name: str, factor: Tensor) -> None:
    weights[name] = (weights[name].double() * factor.double()).float()


def _shift(weights: dict[str, Tensor], name: str, offset: Tensor) -> None:
    weights[name] = (weights[name].double() + offset).float()
