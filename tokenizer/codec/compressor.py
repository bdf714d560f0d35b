"""Compressor and decompressor: features → latents to be quantised, and back, by focal blocks.

Shapes and parameter names are FocalCodec's (arXiv 2502.04465, section 3), so that its published
weights fit. The causal form (FocalCodec-Stream, arXiv 2509.16195) carries what it has heard from
chunk to chunk, and ends with a layer that sees a chunk of 4 frames whole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.codec.focal import FocalBlock, State
from tokenizer.config import FocalConfig
from tokenizer.encoder.linear import product


class Snake(nn.Module):
    """x + sin²(a x) / a: an activation with a period (arXiv 2006.08195)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → same."""
        alpha = self.alpha[:, 0]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class DownScale(nn.Module):
    """`factor` frames → one of another width."""

    def __init__(self, width: int, out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.downscale = nn.Conv1d(width, out, factor, factor)
        self.activation = Snake(out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, ceil(T / factor), D'); what is missing of the last is zero."""
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.factor))
        side_by_side = x.unflatten(1, (-1, self.factor)).flatten(2)
        return self.activation(product(self.downscale, side_by_side))


class UpScale(nn.Module):
    """One frame → `factor` of another width."""

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
    """Fewer frames, then a block over them."""

    def __init__(self, width: int, out: int, factor: int, config: FocalConfig) -> None:
        super().__init__()
        self.downscale = DownScale(width, out, factor)
        self.focal_block = FocalBlock(out, config)

    def forward(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """(B, T, D) → (B, ceil(T / factor), D'), and the state."""
        return self.focal_block(self.downscale(x), mask, state)


class FocalUpScale(nn.Module):
    """A block, then more frames."""

    def __init__(self, width: int, out: int, factor: int, config: FocalConfig) -> None:
        super().__init__()
        self.focal_block = FocalBlock(width, config)
        self.upscale = UpScale(width, out, factor)

    def forward(self, x: Tensor, mask: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        """(B, T, D) → (B, T · factor, D'), and the state."""
        x, kept = self.focal_block(x, mask, state)
        return self.upscale(x), kept


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
        self, x: Tensor, lengths: list[int] | None = None, state: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """lengths: frames of each utterance where some are padded. state: of the chunk before.

        Returns latents, and the state for the next chunk (causal form alone; whole tokens' frames).
        """
        kept, mask = [], None
        for number, layer in enumerate(self.layers):
            if lengths is not None:
                # A frame that stands for the end of an utterance and what follows it hears silence.
                x = x * padding_mask(lengths, x).mT
                lengths = [-(-n // layer.downscale.factor) for n in lengths]
                mask = padding_mask(lengths, x, -(-x.shape[1] // layer.downscale.factor))
            x, own = layer(x, mask, state[number] if state else None)
            kept.append(own)
        return self.out_proj(x), kept


class ChunkFeedForward(nn.Module):
    """A feed-forward over all frames of a chunk at once, with a residual."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.in_proj = nn.Linear(frames * width, frames * width)
        self.out_proj = nn.Linear(frames * width, frames * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → same; what is missing of the last chunk is zero."""
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
        self, x: Tensor, lengths: list[int] | None = None, state: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """lengths: latents of each utterance where some are padded. Else as the compressor's."""
        x, kept = self.in_proj(x), []
        for number, layer in enumerate(self.layers):
            mask = None if lengths is None else padding_mask(lengths, x)
            x, own = layer(x, mask, state[number] if state else None)
            if lengths is not None:
                lengths = [n * layer.upscale.factor for n in lengths]
            kept.append(own)
        return (self.refiner(x) if self.config.causal else x), kept


def padding_mask(lengths: list[int], like: Tensor, frames: int | None = None) -> Tensor:
    """(B, 1, T) of 1 in an utterance and 0 after its end."""
    frames = frames or like.shape[1]
    place = torch.arange(frames, device=like.device)
    ends = torch.tensor(lengths, device=like.device)
    return (place < ends[:, None]).to(like.dtype)[:, None]
