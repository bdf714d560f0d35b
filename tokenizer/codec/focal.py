"""Focal blocks, of which compressor and decompressor are stacks.

A focal block (Yang et al. 2022, arXiv 2203.11926) computes context with depthwise convolutions of
growing width and a mean over all frames. It weighs each context by a gate, sums them, and
multiplies the sum by a query; gates and query are projections of the frame. FocalCodec (arXiv
2502.04465, section 3) stacks such blocks before and after its quantizer; shapes and parameter names
here are FocalCodec's. The causal form (FocalCodec-Stream, arXiv 2509.16195) replaces the mean by a
convolution over 512 past frames, and layer norm by a scaled tanh.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.config import FocalConfig
from tokenizer.encoder.linear import InferenceConv, product

# The past inputs of a causal module's convolutions: one (B, D, kernel - 1) for each.
State = list[Tensor]
# Frames that a packed convolution's weight is laid out for: a chunk.
USUAL_FRAMES = 4


class FocalModulation(nn.Module):
    """query(x) ⊙ proj(Σ gate_l(x) context_l), over the levels l of context."""

    def __init__(self, width: int, config: FocalConfig) -> None:
        super().__init__()
        levels = config.focal_levels
        self.width, self.causal = width, config.causal
        self.in_proj = nn.Linear(width, 2 * width + levels + 1)
        self.context_proj = nn.Conv1d(width, width, kernel_size=1)
        self.out_proj = nn.Linear(width, width)
        self.kernels = [
            config.focal_window + config.focal_factor * level for level in range(levels)
        ]
        if config.causal:
            self.kernels.append(config.past_frames)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, n, padding=0 if config.causal else "same", groups=width),
                nn.GELU(),
            )
            for n in self.kernels
        )

    def forward(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """(B, T, D) → same, and the state for the next chunk (causal form only).

        mask: (B, 1, T), 0 at padding, or None. state: from the chunk before; None for the first.
        """
        query, context, gates = self.in_proj(x).split(
            [self.width, self.width, len(self.layers) + (not self.causal)], dim=-1
        )
        context, gates = context.mT, gates.mT
        total, next_state = context.new_zeros(()), []
        for level, (layer, kernel) in enumerate(zip(self.layers, self.kernels)):
            if self.causal:
                context, past = look_back(context, kernel - 1, state[level] if state else None)
                next_state.append(past)
            elif mask is not None:
                context = context * mask
            context = layer(context)
            total = total + context * gates[:, level : level + 1]
        if not self.causal:
            if mask is None:
                mean = context.mean(-1, keepdim=True)
            else:
                mean = (context * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
            total = total + F.gelu(mean) * gates[:, len(self.layers) :]
        return self.out_proj(query * product(self.context_proj, total.mT)), next_state


def look_back(x: Tensor, frames: int, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, D, T) → (B, D, frames + T) with the past before it, and the past of the next chunk.

    past: (B, D, frames) from the chunk before. None at the start: the first frame is repeated
    (replicate padding).
    """
    x = F.pad(x, (frames, 0), mode="replicate") if past is None else torch.cat([past, x], dim=-1)
    return x, x[..., x.shape[-1] - frames :]


class DynamicTanh(nn.Module):
    """tanh(a x), which replaces layer norm in the causal form (arXiv 2503.10622)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → same."""
        return torch.tanh(self.alpha * x)


class FocalFeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 4 * width)
        self.out_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → same."""
        return self.out_proj(F.gelu(self.in_proj(x)))


class FocalBlock(nn.Module):
    """Focal modulation, then a feed-forward; both pre-norm with a residual."""

    def __init__(self, width: int, config: FocalConfig) -> None:
        super().__init__()
        norm = DynamicTanh if config.causal else nn.LayerNorm
        self.modulation_norm = norm(width)
        self.modulation = FocalModulation(width, config)
        self.feed_forward_norm = norm(width)
        self.feed_forward = FocalFeedForward(width)

    def forward(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """(B, T, D) → same, and the state. mask, state: as FocalModulation's."""
        modulated, next_state = self.modulation(self.modulation_norm(x), mask, state)
        x = x + modulated
        return x + self.feed_forward(self.feed_forward_norm(x)), next_state


class PackedModulation:
    """A causal FocalModulation for inference on a CPU.

    Frames stay side by side, as linear layers give them: its states are (B, kernel - 1, D), and
    nothing is transposed. Agrees with FocalModulation up to rounding.
    """

    def __init__(self, modulation: FocalModulation) -> None:
        """modulation: after pack_linears."""
        self.width = modulation.width
        self.in_proj, self.out_proj = modulation.in_proj, modulation.out_proj
        self.context_proj = modulation.context_proj
        self.layers = [
            InferenceConv(
                layer[0].weight.detach(),
                layer[0].bias.detach(),
                groups=self.width,
                frames=kernel - 1 + USUAL_FRAMES,
            )
            for layer, kernel in zip(cast(Any, modulation.layers), modulation.kernels)
        ]

    def __call__(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """(B, T, D) → same, and the state for the next chunk. mask: not needed."""
        width = self.width
        query, context, gates = self.in_proj(x).split([width, width, len(self.layers)], dim=-1)
        total, next_state = context.new_zeros(()), []
        for level, layer in enumerate(self.layers):
            before = layer.taps - 1
            past = state[level] if state else context[:, :1].expand(-1, before, -1)
            context = torch.cat([past, context], dim=1)
            next_state.append(context[:, context.shape[1] - before :])
            context = layer(context)
            total = total + context * gates[..., level : level + 1]
        return self.out_proj(query * product(self.context_proj, total)), next_state


def pack_modulations(module: nn.Module) -> None:
    """Replace every causal FocalModulation below the module by a PackedModulation."""
    for block in list(module.modules()):
        if isinstance(block, FocalBlock) and block.modulation.causal:
            packed = PackedModulation(block.modulation)
            del block.modulation
            block.modulation = cast(Any, packed)
