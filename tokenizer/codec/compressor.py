"""Compressor and decompressor: features → latents to quantise, and back, in focal blocks.

Shapes and parameter names are FocalCodec's (arXiv 2502.04465, section 3), so its published weights
load. The causal form (FocalCodec-Stream, arXiv 2509.16195) carries a state from chunk to chunk, and
its decompressor ends with a layer over whole chunks of 4 frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.codec.focal import FocalBlock, State
from tokenizer.config import FocalConfig
from tokenizer.encoder.linear import product


class Snake(nn.Module):
    """x + sin²(a x) / a, a periodic activation (arXiv 2006.08195)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → same."""
        alpha = self.alpha[:, 0]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class DownScale(nn.Module):
    """`factor` frames → one frame of another width."""

    def __init__(self, width: int, out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.downscale = nn.Conv1d(width, out, factor, factor)
        self.activation = Snake(out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, ceil(T / factor), D'); the last group is padded with zeros."""
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.factor))
        side_by_side = x.unflatten(1, (-1, self.factor)).flatten(2)
        return self.activation(product(self.downscale, side_by_side))


class UpScale(nn.Module):
    """One frame → `factor` frames of another width."""

    def __init__(self, width: int, out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.activation = Snake(width)
        self.upscale = nn.ConvTranspose1d(width, out, factor, factor)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T · factor, D')."""
        side_by_side = product(self.upscale, self.activation(x))
        return side_by_side.unflatten(-1, (self.factor, -1)).flatten(1, 2)


class FocalDownScale(nn.Module):
    """DownScale, then a focal block."""

    def __init__(self, width: int, out: int, factor: int, config: FocalConfig) -> None:
        super().__init__()
        self.downscale = DownScale(width, out, factor)
        self.focal_block = FocalBlock(out, config)

    def forward(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """(B, T, D) → (B, ceil(T / factor), D'), and the state. mask: of the output's frames."""
        return self.focal_block(self.downscale(x), mask, state)


class FocalUpScale(nn.Module):
    """A focal block, then UpScale."""

    def __init__(self, width: int, out: int, factor: int, config: FocalConfig) -> None:
        super().__init__()
        self.focal_block = FocalBlock(width, config)
        self.upscale = UpScale(width, out, factor)

    def forward(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """(B, T, D) → (B, T · factor, D'), and the state. mask: of the input's frames."""
        x, next_state = self.focal_block(x, mask, state)
        return self.upscale(x), next_state


class Compressor(nn.Module):
    """Features (B, T, width) → latents (B, ceil(T / frames_per_token), latent)."""

    def __init__(self, config: FocalConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.width, *config.hidden)
        self.layers = nn.ModuleList(
            FocalDownScale(*shape, config) for shape in zip(widths, widths[1:], config.factors)
        )
        self.out_proj = nn.Linear(widths[-1], config.latent)

    def forward(
        self,
        x: Tensor,
        lengths: list[int] | Tensor | None = None,
        state: list[State] | None = None,
    ) -> tuple[Tensor, list[State]]:
        """lengths: frames of each utterance, where some are padded; None where none is. A tensor of
        the device of x saves a copy to it.

        state: from the chunk before; None for the first. Returns the latents, and the state for the
        next chunk. Only the causal form has a state, and only after a whole number of tokens.
        """
        next_state, mask = [], None
        ends = None if lengths is None else torch.as_tensor(lengths, device=x.device)
        for number, (layer, factor) in enumerate(zip(self.layers, self.config.factors)):
            if ends is not None:
                # The last token of an utterance may span padding, which then must be zero.
                x = x * padding_mask(ends, x).mT
                ends = -(-ends // factor)
                mask = padding_mask(ends, x, -(-x.shape[1] // factor))
            x, layer_state = layer(x, mask, state[number] if state else None)
            next_state.append(layer_state)
        return self.out_proj(x), next_state


class ChunkFeedForward(nn.Module):
    """A feed-forward over the frames of a chunk side by side, with a residual."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.in_proj = nn.Linear(frames * width, frames * width)
        self.out_proj = nn.Linear(frames * width, frames * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → same; the last chunk is padded with zeros."""
        chunks = F.pad(x, (0, 0, 0, -x.shape[1] % self.frames)).unflatten(1, (-1, self.frames))
        added = self.out_proj(F.gelu(self.in_proj(chunks.flatten(2))))
        return x + added.view(x.shape[0], -1, x.shape[2])[:, : x.shape[1]]


class Decompressor(nn.Module):
    """Quantised latents (B, T', latent) → features (B, T' · frames_per_token, width)."""

    def __init__(self, config: FocalConfig) -> None:
        super().__init__()
        self.config = config
        widths = (*config.hidden[::-1], config.width)
        self.in_proj = nn.Linear(config.latent, widths[0])
        self.layers = nn.ModuleList(
            FocalUpScale(*shape, config) for shape in zip(widths, widths[1:], config.factors[::-1])
        )
        if config.causal:
            self.refiner = ChunkFeedForward(config.width, config.chunk_frames)

    def forward(
        self,
        x: Tensor,
        lengths: list[int] | Tensor | None = None,
        state: list[State] | None = None,
    ) -> tuple[Tensor, list[State]]:
        """lengths: latents of each utterance, where some are padded. Otherwise as Compressor's."""
        x, next_state = self.in_proj(x), []
        ends = None if lengths is None else torch.as_tensor(lengths, device=x.device)
        factors = self.config.factors[::-1]
        for number, (layer, factor) in enumerate(zip(self.layers, factors)):
            mask = None if ends is None else padding_mask(ends, x)
            x, layer_state = layer(x, mask, state[number] if state else None)
            if ends is not None:
                ends = ends * factor
            next_state.append(layer_state)
        return (self.refiner(x) if self.config.causal else x), next_state


def padding_mask(ends: Tensor, like: Tensor, frames: int | None = None) -> Tensor:
    """(B, 1, T): 1 within an utterance, 0 at its padding.

    ends: (B,), frames of each. like: (B, T, D), for T and dtype. frames: T, where it is another
    one.
    """
    frame = torch.arange(frames or like.shape[1], device=like.device)
    return (frame < ends[:, None]).to(like.dtype)[:, None]
