"""Linear layers for inference, their weights laid out once for the machine's fastest kernel.

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

    def __init__(self, weight: Tensor, bias: Tensor | None = None, gelu: bool = False):
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


def pack_linears(module: nn.Module) -> None:
    """Replace every nn.Linear below by one whose weight is laid out for the machine."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            delattr(module, name)
            setattr(module, name, InferenceLinear(child.weight.detach(), child.bias.detach()))
        else:
            pack_linears(child)
