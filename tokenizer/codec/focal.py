"""Focal blocks: what a compressor and a decompressor are stacked of, and their shape.

A focal block (Yang et al. 2022, arXiv 2203.11926) gathers context in depthwise convolutions of
growing width and a mean over all frames, weighs these by gates that each frame computes, and
multiplies its query by the sum. FocalCodec (arXiv 2502.04465, section 3) stacks such blocks around
its quantiser; shapes and parameter names here are its own. The causal form (FocalCodec-Stream,
arXiv 2509.16195) replaces the mean by a convolution over 512 past frames and layer norm by a scaled
tanh.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.config import FocalConfig
from tokenizer.encoder.linear import product

# What a module that looks back keeps of the frames before: one tensor per convolution.
State = list[Tensor]


class FocalModulation(nn.Module):
    """q(x) ⊙ h(Σ gate_l context_l): context gathered first, then brought to each frame's query."""

    def __init__(self, width: int, config: FocalConfig) -> None:
        super().__init__()
        levels = config.focal_levels
        self.width, self.causal = width, config.causal
        self.in_proj = nn.Linear(width, 2 * width + levels + 1)
        self.context_proj = nn.Conv1d(width, width, kernel_size=1)
        self.out_proj = nn.Linear(width, width)
        kernels = [config.focal_window + config.focal_factor * level for level in range(levels)]
        if config.causal:
            kernels.append(config.past_frames)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, n, padding=0 if config.causal else "same", groups=width),
                nn.GELU(),
            )
            for n in kernels
        )

    def forward(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """x: (B, T, D). mask: (B, 1, T), 0 at padding, or None. state: of the chunk before."""
        query, context, gates = self.in_proj(x).split(
            [self.width, self.width, len(self.layers) + (not self.causal)], dim=-1
        )
        context, gates = context.mT, gates.mT
        total, kept = 0.0, []
        for level, layer in enumerate(self.layers):
            if self.causal:
                context, left = look_back(
                    context, layer[0].kernel_size[0] - 1, state=state, index=level
                )
                kept.append(left)
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
        return self.out_proj(query * product(self.context_proj, total.mT)), kept


def look_back(x: Tensor, frames: int, state: State | None, index: int) -> tuple[Tensor, Tensor]:
    """(B, D, T) with `frames` earlier ones before it, and those to keep for the next chunk.

    Before the beginning lies the first frame, again and again.
    """
    if state is None:
        x = F.pad(x, (frames, 0), mode="replicate")
    else:
        x = torch.cat([state[index], x], dim=-1)
    return x, x[..., x.shape[-1] - frames :]


class DynamicTanh(nn.Module):
    """tanh(a x): what stands for a layer norm in the causal form (arXiv 2503.10622)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → same."""
        return torch.tanh(self.alpha * x)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 4 * width)
        self.out_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → same."""
        return self.out_proj(F.gelu(self.in_proj(x)))


class FocalBlock(nn.Module):
    """Focal modulation and feed-forward, each pre-normed, each with a residual."""

    def __init__(self, width: int, config: FocalConfig) -> None:
        super().__init__()
        norm = DynamicTanh if config.causal else nn.LayerNorm
        self.modulation_norm = norm(width)
        self.modulation = FocalModulation(width, config)
        self.feed_forward_norm = norm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """(B, T, D) → same, and the state."""
        added, kept = self.modulation(self.modulation_norm(x), mask, state)
        x = x + added
        return x + self.feed_forward(self.feed_forward_norm(x)), kept
