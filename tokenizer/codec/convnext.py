"""The ConvNeXt backbone of both vocoders, Vocos and WaveNeXt: features → hidden frames.

ConvNeXt (Liu et al. 2022, arXiv 2201.03545) over one dimension, as in Vocos (arXiv 2306.00814).
Parameter names and shapes are those of FocalCodec's vocoders (arXiv 2502.04465).

On a CPU, inference has a form of its own. Frames stay rows in memory, so that nothing is
transposed: a depthwise convolution over 1,500 frames of width 1,024 then takes 0.3 ms in place of
10. The first convolution is one matrix product with a packed weight, and the activation is part of
a product.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.codec.focal import look_back
from tokenizer.config import VocoderConfig
from tokenizer.encoder.linear import InferenceLinear, SelfPacking


class FrameConvolution(SelfPacking):
    """A convolution over frames: T frames → T frames, causal or centred.

    Centred, it is padded with zeros on both sides. The causal form of Vocos repeats the first frame
    before the start (replicate padding), that of WaveNeXt has zeros there.
    """

    def __init__(self, width: int, config: VocoderConfig, *, depthwise: bool) -> None:
        super().__init__()
        self.kernel, self.causal = config.kernel, config.causal
        self.zero_past = config.head == "linear"
        self.groups = width if depthwise else 1
        layer = nn.Conv1d(width, config.hidden, config.kernel, groups=self.groups)
        assert layer.bias is not None
        self.weight, self.bias = layer.weight, layer.bias
        self.packed: InferenceLinear | Tensor | None = None

    def pack(self) -> None:
        """Prepare the CPU's inference form; the weight is not kept."""
        weight, bias = self.weight.detach(), self.bias.detach()
        if self.groups == 1:
            self.packed = InferenceLinear(weight.transpose(1, 2).flatten(1), bias)
        else:
            # Channels last: (D, 1, kernel) as (D, 1, 1, kernel), for a two-dimensional convolution.
            self.packed = weight[:, :, None].contiguous(memory_format=torch.channels_last)
        del self.weight

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, C) → (B, T, C'), and the past of the next chunk.

        past: (B, C, kernel - 1), the inputs before this chunk; None at the start, and empty if not
        causal.
        """
        if self.packed is not None:
            return self._forward_packed(self.packed, x, past)
        x, next_past = x.mT, x[:, :0].mT
        if self.causal:
            if past is None and self.zero_past:
                past = x.new_zeros(*x.shape[:2], self.kernel - 1)
            x, next_past = look_back(x, self.kernel - 1, past)
        padding = 0 if self.causal else "same"
        y = F.conv1d(x, self.weight, self.bias, padding=padding, groups=self.groups)
        return y.mT, next_past

    def _forward_packed(
        self, weight: InferenceLinear | Tensor, x: Tensor, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The same, frames as rows throughout."""
        count, around = self.kernel - 1, self.kernel // 2
        if not self.causal:
            rows, next_past = F.pad(x, (0, 0, around, around)), x[:, :0]
        else:
            if past is not None:
                before = past.mT
            elif self.zero_past:
                before = x.new_zeros(len(x), count, x.shape[2])
            else:
                before = x[:, :1].expand(-1, count, -1)
            rows = torch.cat([before, x], 1)
            next_past = rows[:, x.shape[1] :]
        if isinstance(weight, InferenceLinear):
            # A frame's input is the kernel's frames side by side, which is a view.
            y = weight(rows.unfold(1, self.kernel, 1).mT.flatten(2))
        else:
            image = rows[:, None].permute(0, 3, 1, 2)
            y = F.conv2d(image, weight, self.bias, groups=self.groups)[:, :, 0].mT
        return y, next_past.mT


class ConvNeXtBlock(SelfPacking):
    """A depthwise convolution over frames, then two linear layers, with a residual."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width, self.is_packed = config.hidden, False
        self.dwconv = FrameConvolution(width, config, depthwise=True)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1: nn.Linear | InferenceLinear = nn.Linear(width, config.feed_forward)
        self.pwconv2: nn.Linear | InferenceLinear = nn.Linear(config.feed_forward, width)
        self.gamma = nn.Parameter(torch.full((width,), 1 / config.layers))

    def pack(self) -> None:
        """Prepare the CPU's inference form: GELU in the first product, gamma in the second."""
        self.dwconv.pack()
        inner, outer, gamma = self.pwconv1, self.pwconv2, self.gamma.detach()
        assert isinstance(inner, nn.Linear) and isinstance(outer, nn.Linear)
        del self.pwconv1, self.pwconv2, self.gamma
        self.pwconv1 = InferenceLinear(inner.weight.detach(), inner.bias.detach(), gelu=True)
        scaled = gamma[:, None] * outer.weight.detach()
        self.pwconv2 = InferenceLinear(scaled, gamma * outer.bias.detach())
        self.is_packed = True

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D) → same, and the past of the next chunk. past: see FrameConvolution."""
        y, next_past = self.dwconv(x, past)
        y = self.pwconv1(self.norm(y))
        if self.is_packed:
            return self.pwconv2(y).add_(x), next_past
        return x + self.gamma * self.pwconv2(F.gelu(y)), next_past


class Backbone(nn.Module):
    """Features (B, T, width) → (B, T, hidden)."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.embedding = FrameConvolution(config.width, config, depthwise=False)
        self.input_norm = nn.LayerNorm(config.hidden, eps=1e-6)
        self.layers = nn.ModuleList(ConvNeXtBlock(config) for _ in range(config.layers))
        self.output_norm = nn.LayerNorm(config.hidden, eps=1e-6)

    def forward(
        self, x: Tensor, state: list[Tensor] | None, real: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """state: past inputs of each convolution, from the chunk before; returns the next.

        real: (B, T, 1), 1 for an utterance's own frames, 0 for padding behind them, which then
        changes none of them.
        """
        past: Sequence[Tensor | None] = state or [None] * (1 + len(self.layers))
        x, next_past = self.embedding(x, past[0])
        x, next_state = self.input_norm(x), [next_past]
        for layer, layer_past in zip(self.layers, past[1:]):
            # What a convolution sees behind the end is zeros, as without padding.
            x, next_past = layer(x if real is None else x * real, layer_past)
            next_state.append(next_past)
        return self.output_norm(x), next_state
