"""Chunk-causal attention over packed rows, with WavLM's gated relative position bias.

A position attends to positions of its own utterance, within the chunk-causal mask of
tokenizer/encoder/chunk_mask.py. Scores get the bias of tokenizer/encoder/relative_position.py.

There are two implementations, and neither computes a score for every pair of positions. On a CPU,
BandAttention computes plain batched products of a block of queries and the band of keys that the
block may see: PyTorch's fused kernel takes no bias that needs a gradient there, and runs bf16 at
fp32's speed. On a GPU it is FlexAttention.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from lm.config import LMConfig
from tokenizer.encoder.chunk_mask import block_mask, chunk_causal_mask
from tokenizer.encoder.relative_position import bias_by_distance, block_bias, position_gate

# Queries in a block on a CPU: with 512 past keys and 16 heads, its scores take 2.6 MB in bf16.
BLOCK = 128
# As many rows are computed together as keep a block's scores under this many bytes.
SCORE_TILE_BYTES = 2 << 20
# Of FlexAttention's kernels. With PyTorch 2.11's own number of pipeline stages and heads of 64
# dimensions they need 246,784 bytes of shared memory; an H100 has 232,448 ("No valid triton
# configs").
KERNEL_OPTIONS: Any = {"num_stages": 2}


class Attend(Protocol):
    """The attention of one batch of rows, which all layers share."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """q, k, v: (B, H, T, d). gate: (B, H, T). Returns (B, H, T, d)."""


def attention_over(
    utterance: Tensor, table: Tensor, config: LMConfig, dtype: torch.dtype
) -> Attend:
    """The attention of a batch of rows; made once for a batch, and used by every layer.

    utterance: (B, T), the utterance of each position. table: (num_buckets, H), the position bias of
    each bucket. dtype: of q, k and v.
    """
    if utterance.device.type == "cpu":
        return BandAttention(utterance, table, config=config, dtype=dtype)
    return FlexAttention(utterance, table, config)


@dataclass(frozen=True)
class Tile:
    """A block of queries of some rows, and the keys they may see.

    rows: of the batch. Queries are positions [start, stop), keys [first, stop). mask: (rows, 1, Q,
    K), what is added to the scores: 0, or minus infinity where a query may not attend to a key.
    """

    rows: slice
    first: int
    start: int
    stop: int
    mask: Tensor


class BandAttention:
    """Attention on a CPU, tile by tile."""

    def __init__(
        self, utterance: Tensor, table: Tensor, config: LMConfig, dtype: torch.dtype
    ) -> None:
        """As attention_over."""
        length, chunk = utterance.shape[1], config.chunk
        self.block = -(-min(BLOCK, length) // chunk) * chunk
        self.window = min(config.window, length)
        # Contiguous: scores take their layout from the bias, and baddbmm is slow in any other.
        bias = block_bias(table, self.block, past=self.window, config=config)
        self.bias = bias.to(dtype).contiguous()
        visible = block_mask(self.block, self.window, chunk=chunk, window=config.window)
        size = self.bias.numel() * dtype.itemsize
        rows = max(1, SCORE_TILE_BYTES // size)
        self.tiles = self._tiles(utterance, visible, rows=rows, dtype=dtype)

    def _tiles(
        self, utterance: Tensor, visible: Tensor, rows: int, dtype: torch.dtype
    ) -> list[Tile]:
        """All blocks of all rows, `rows` rows at a time. visible: (Q, K), a full block's mask."""
        tiles, (batch, length) = [], utterance.shape
        for top in range(0, batch, rows):
            part = utterance[top : top + rows]
            for start in range(0, length, self.block):
                stop = min(start + self.block, length)
                first = max(0, start - self.window)
                # Leave out keys before the utterance that the block starts in, in every row.
                same = (part[:, first : start + 1] == part[:, start : start + 1]).any(0)
                first += int(same.int().argmax())
                band = visible[: stop - start, first - start + self.window :][:, : stop - first]
                same = part[:, start:stop, None] == part[:, None, first:stop]
                mask = torch.zeros(same.shape, dtype=dtype)
                mask.masked_fill_(~(same & band), -torch.inf)
                row_range = slice(top, top + len(part))
                tiles.append(Tile(row_range, first, start=start, stop=stop, mask=mask[:, None]))
        return tiles

    @torch.compiler.disable
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """(B, H, T, d) each, and (B, H, T) → (B, H, T, d)."""
        gate = gate.unsqueeze(-1).to(q.dtype).contiguous()
        return _TiledAttention.apply(q, k, v, gate, self.bias, self.tiles, self.window)


class _TiledAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + gate * bias + mask) v, a tile at a time.

    The backward pass is written out: autograd would read and write every tile's scores several
    times more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gate: Tensor,
        bias: Tensor,
        tiles: list[Tile],
        window: int,
    ) -> Tensor:
        scale = q.shape[-1] ** -0.5
        out, kept = torch.empty_like(q), []
        with torch.autocast("cpu", enabled=False):
            for tile in tiles:
                q_, k_, v_ = _tile_parts(tile, q, k=k, v=v)
                scores = torch.addcmul(tile.mask, _queries(tile, gate), _band(tile, bias, window))
                flat = scores.flatten(0, 1)
                flat.baddbmm_(q_, k_.mT, alpha=scale)
                weights = torch.softmax(flat, -1)
                _queries(tile, out).copy_(torch.bmm(weights, v_).view_as(_queries(tile, out)))
                kept.append(weights)
        ctx.save_for_backward(q, k, v, gate, bias)
        ctx.kept, ctx.tiles, ctx.window = kept, tiles, window
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gate, bias = ctx.saved_tensors
        scale, window = q.shape[-1] ** -0.5, ctx.window
        grad_q, grad_gate = torch.empty_like(q), torch.empty_like(gate)
        grad_k, grad_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        grad_bias = torch.zeros_like(bias, dtype=torch.float32)
        with torch.autocast("cpu", enabled=False):
            for tile, weights in zip(ctx.tiles, ctx.kept):
                q_, k_, v_ = _tile_parts(tile, q, k=k, v=v)
                grad_ = _queries(tile, grad).flatten(0, 1).contiguous()
                by_head = (-1, q.shape[1])
                _keys(tile, grad_v).add_(torch.bmm(weights.mT, grad_).unflatten(0, by_head))
                grad_weights = torch.bmm(grad_, v_.mT)
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                grad_q_ = torch.bmm(grad_scores, k_).mul_(scale)
                _queries(tile, grad_q).copy_(grad_q_.unflatten(0, by_head))
                grad_k_ = torch.bmm(grad_scores.mT, q_)
                _keys(tile, grad_k).add_(grad_k_.unflatten(0, by_head), alpha=scale)
                grad_scores = grad_scores.unflatten(0, by_head)
                band = _band(tile, bias, window)
                _queries(tile, grad_gate).copy_((grad_scores * band).sum(-1, keepdim=True))
                if ctx.needs_input_grad[4]:
                    # Adding row by row is faster than adding their sum.
                    for row in grad_scores.mul_(_queries(tile, gate)):
                        _band(tile, grad_bias, window).add_(row)
        grad_k, grad_v, grad_bias = grad_k.to(k.dtype), grad_v.to(v.dtype), grad_bias.to(bias.dtype)
        return grad_q, grad_k, grad_v, grad_gate, grad_bias, None, None


def _queries(tile: Tile, x: Tensor) -> Tensor:
    return x[tile.rows, :, tile.start : tile.stop]


def _keys(tile: Tile, x: Tensor) -> Tensor:
    return x[tile.rows, :, tile.first : tile.stop]


def _tile_parts(tile: Tile, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tile's queries, keys and values, (rows H, Q or K, d) each."""
    return (
        _queries(tile, q).flatten(0, 1).contiguous(),
        _keys(tile, k).flatten(0, 1).contiguous(),
        _keys(tile, v).flatten(0, 1).contiguous(),
    )


def _band(tile: Tile, bias: Tensor, window: int) -> Tensor:
    """(H, Q, window + Q), a full block's → (H, Q, K), the tile's part."""
    return bias[:, : tile.stop - tile.start, tile.first - tile.start + window :][
        ..., : tile.stop - tile.first
    ]


class FlexAttention:
    """Attention on a GPU. On a CPU it runs uncompiled, for tests alone."""

    def __init__(self, utterance: Tensor, table: Tensor, config: LMConfig) -> None:
        """As attention_over."""
        batch, length = utterance.shape
        self.by_distance = bias_by_distance(table, length, config)
        self.zero = length - 1
        chunk, window = config.chunk, config.window

        def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = utterance[row, query] == utterance[row, key]
            return same & chunk_causal_mask(query, key, chunk=chunk, window=window)

        self.compiled = utterance.is_cuda
        make = _compiled(create_block_mask) if self.compiled else create_block_mask
        self.mask = make(visible, batch, None, length, length, device=utterance.device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """(B, H, T, d) each, and (B, H, T) → (B, H, T, d)."""
        by_distance, zero = self.by_distance, self.zero

        def biased(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + gate[row, head, query] * by_distance[head, key - query + zero]

        # Under torch.compile of the whole model it is a part of the model's graph.
        alone = self.compiled and not torch.compiler.is_compiling()
        attend: Callable[..., Any] = _compiled(flex_attention) if alone else flex_attention
        return attend(
            q, k, v, score_mod=biased, block_mask=self.mask, kernel_options=KERNEL_OPTIONS
        )


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def gates(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """(B, T, D) → (B, H, T): the gate of the position bias, for each head and query.

    weight: (8, d), bias: (8,). A head's eight outputs are summed in two groups of four; a sum of
    linear outputs is one linear output, so the weights are summed instead. scale: (1, H, 1, 1).
    """
    heads = scale.shape[1]
    logits = F.linear(
        x.unflatten(-1, (heads, -1)), weight.view(2, 4, -1).sum(1), bias.view(2, 4).sum(1)
    )
    return position_gate(logits, scale.view(-1, 1)).squeeze(-1).transpose(1, 2)  # (B, T, H, 2)
