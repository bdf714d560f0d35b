"""Linear layers and convolutions for inference, their weights laid out once for fast kernels.

On a CPU every matrix product of the encoder goes through oneDNN with a pre-packed weight. PyTorch's
own `F.linear` sends fp32 to MKL, which on AMD processors runs at less than half of oneDNN's speed
(115 against 265 GFLOP/s on one Zen 5 core), and re-packs a bf16 weight at every call. On a GPU, or
where PyTorch was built without oneDNN, this is `F.linear`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InferenceLinear:
    """`y = x W^T + b`, then optionally GELU (exact, erf form), without gradients.

    The plain weight is not kept: an encoder's memory is one copy of its weights.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> None:
        """weight: (out, in); bias: (out,) or None. Both on the device and in the dtype of use."""
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.gelu = gelu
        self.packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        if self.packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """x: (..., in) → (..., out)."""
        if self.packed:
            activation = "gelu" if self.gelu else "none"
            return torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, activation, [], "none" if self.gelu else ""
            )
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y


class InferenceConv:
    """A convolution over time, then GELU, without gradients, its weight laid out once for oneDNN.

    PyTorch's own convolution lays out weight and input anew in every call. That takes most of the
    time of 512 taps over a chunk of 4 frames. Where PyTorch was built without oneDNN, this is
    `F.conv1d`. The plain weight is not kept.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, groups: int, frames: int) -> None:
        """weight: (out, in / groups, taps) on the CPU. frames: of a usual input; the weight is laid
        out for that many, and others only take longer.
        """
        self.bias, self.groups, self.taps = bias, groups, weight.shape[-1]
        self.packed = torch.backends.mkldnn.is_available()
        if self.packed:
            shape = [1, groups * weight.shape[1], 1, frames]
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight.unsqueeze(2), [0, 0], [1, 1], [1, 1], groups, shape
            )
        self.weight = weight

    def __call__(self, x: Tensor, padding: int = 0) -> Tensor:
        """(B, T, in) → (B, T + 2 padding - taps + 1, out). padding: zeros on each side."""
        if not self.packed:
            y = F.conv1d(x.mT, self.weight, self.bias, padding=padding, groups=self.groups)
            return F.gelu(y).mT
        geometry = [0, padding], [1, 1], [1, 1], self.groups
        image = x.mT.unsqueeze(2)  # one row high, channels last
        y = torch.ops.mkldnn._convolution_pointwise(
            image, self.weight, self.bias, *geometry, "gelu", [], "none"
        )
        return y.squeeze(2).mT


class SelfPacking(nn.Module):
    """A module with a form of its own for inference on a CPU."""

    def pack(self) -> None:
        """Take that form. Training and `state_dict` are over then."""
        raise NotImplementedError


def as_linear(layer: nn.Linear | nn.Conv1d | nn.ConvTranspose1d) -> tuple[Tensor, Tensor | None]:
    """Weight (out, in) and bias of a layer as one matrix product.

    A convolution whose stride is its kernel is a product over groups of frames: the frames of a
    group are concatenated in the input of a Conv1d, and in the output of a ConvTranspose1d.
    """
    if isinstance(layer, nn.Conv1d):
        return layer.weight.transpose(1, 2).flatten(1), layer.bias
    if isinstance(layer, nn.ConvTranspose1d):
        bias = None if layer.bias is None else layer.bias.repeat(layer.stride[0])
        return layer.weight.permute(2, 1, 0).flatten(0, 1), bias
    return layer.weight, layer.bias


def product(
    layer: nn.Linear | nn.Conv1d | nn.ConvTranspose1d | InferenceLinear, x: Tensor
) -> Tensor:
    """(..., in) → (..., out) by a layer that `as_linear` takes, packed or not."""
    return layer(x) if isinstance(layer, InferenceLinear) else F.linear(x, *as_linear(layer))


def pack_linears(module: nn.Module) -> None:
    """Replace every layer below the module that `as_linear` takes by an InferenceLinear.

    A SelfPacking module packs itself.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, SelfPacking):
            child.pack()
        elif isinstance(child, nn.Linear) or (
            isinstance(child, nn.Conv1d | nn.ConvTranspose1d)
            and child.kernel_size == child.stride
            and child.groups == 1
        ):
            weight, bias = as_linear(child)
            packed = InferenceLinear(weight.detach(), None if bias is None else bias.detach())
            delattr(module, name)
            setattr(module, name, packed)
        else:
            pack_linears(child)
