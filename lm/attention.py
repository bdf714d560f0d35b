"""Chunk-causal attention over packed rows, with WavLM's gated relative position bias.

Position i, of the chunk that begins at c = i - i mod chunk, sees j of its own utterance with
c - window <= j < c + chunk. The score of j for i gets bias[j - i], times a gate that each head
computes from its part of i's input (WavLM, arXiv 2110.13900, section 3.1).

Two forms, and neither has a score for every pair of positions. On a CPU a block of queries meets
the band of keys that any of it may see, in plain batched products; PyTorch's fused kernel takes no
bias that wants a gradient there, and does bf16 at fp32's speed. On a GPU it is FlexAttention.
"""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from lm.config import LMConfig
from tokenizer.encoder.wavlm import position_buckets

# Queries of a block on a CPU: with 512 past keys and 16 heads its scores are 2.6 MB in bf16.
BLOCK = 128
# Rows go together as long as a block's scores are under this many bytes.
SCORE_TILE_BYTES = 2 << 20


def attention_over(utterance: Tensor, table: Tensor, config: LMConfig, dtype: torch.dtype):
    """What every layer attends with: attend(q, k, v, gate), made once for a batch of rows.

    utterance: (B, T), the utterance of each position. table: (num_buckets, H), the bias of each
    bucket of distances. dtype: of q, k and v, (B, H, T, d); gate is (B, H, T). Returns q's like.
    """
    if utterance.device.type == "cpu":
        return BandAttention(utterance, table, config=config, dtype=dtype)
    return FlexAttention(utterance, table, config)


def bias_by_distance(table: Tensor, positions: int, config: LMConfig) -> Tensor:
    """(H, 2 positions - 1): the bias of distances j - i from 1 - positions to positions - 1."""
    return table[position_buckets(positions, config).to(table.device)].T.contiguous()


@dataclass(frozen=True)
class Tile:
    """A block of queries of some rows, and its keys.

    rows: of the batch. first, start, stop: queries are [start, stop), keys [first, stop).
    hidden: (rows, 1, Q, K), minus infinity where a query must not see a key, else 0.
    """

    rows: slice
    first: int
    start: int
    stop: int
    hidden: Tensor


class BandAttention:
    """The form for a CPU."""

    def __init__(
        self, utterance: Tensor, table: Tensor, config: LMConfig, dtype: torch.dtype
    ) -> None:
        """As attention_over."""
        length, chunk = utterance.shape[1], config.chunk
        self.block = -(-min(BLOCK, length) // chunk) * chunk
        self.window = min(config.window, length)
        # The band of a block: queries at 0.. of it, keys from `window` before its first.
        keys = self.window + self.block
        by_distance = bias_by_distance(table, keys, config)
        # Row i begins at the distance -window - i.
        band = by_distance.unfold(1, keys, 1)[:, : self.block].flip(1)
        # Scores take their layout from it: another one would cost baddbmm its fast kernel.
        self.bias = band.to(dtype).contiguous()
        query = torch.arange(self.block)[:, None]
        key, own = torch.arange(-self.window, self.block), query - query % chunk
        beyond = (key >= own + chunk) | (key < own - config.window)
        size = config.heads * self.block * keys * dtype.itemsize
        self.tiles = self._tiles(utterance, beyond, max(1, SCORE_TILE_BYTES // size), dtype)

    def _tiles(
        self, utterance: Tensor, beyond: Tensor, rows: int, dtype: torch.dtype
    ) -> list[Tile]:
        """All blocks of all rows, `rows` of them at a time. beyond: (Q, K) of the whole band."""
        tiles, (batch, length) = [], utterance.shape
        for top in range(0, batch, rows):
            part = utterance[top : top + rows]
            for start in range(0, length, self.block):
                stop = min(start + self.block, length)
                first = max(0, start - self.window)
                # Keys before every row's utterance that the block begins in are seen by none.
                same = (part[:, first : start + 1] == part[:, start : start + 1]).any(0)
                first += int(same.int().argmax())
                band = beyond[: stop - start, first - start + self.window :][:, : stop - first]
                other = part[:, start:stop, None] != part[:, None, first:stop]
                hidden = torch.zeros(other.shape, dtype=dtype)
                hidden.masked_fill_(other | band, -torch.inf)
                tiles.append(
                    Tile(
                        slice(top, top + len(part)),
                        first,
                        start=start,
                        stop=stop,
                        hidden=hidden[:, None],
                    )
                )
        return tiles

    @torch.compiler.disable
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """(B, H, T, d) each, and (B, H, T) → (B, H, T, d)."""
        gate = gate.unsqueeze(-1).to(q.dtype).contiguous()
        return _Banded.apply(q, k, v, gate, self.bias, self.tiles, self.window)


class _Banded(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + gate * bias + hidden) v, a tile at a time.

    Written out because autograd would write and read every tile's scores several times more.
    """

    @staticmethod
    def forward(ctx, q, k, v, gate, bias, tiles, window):
        scale = q.shape[-1] ** -0.5
        out, kept = torch.empty_like(q), []
        with torch.autocast("cpu", enabled=False):
            for tile in tiles:
                q_, k_, v_ = _cut(tile, q, k=k, v=v)
                scores = torch.addcmul(tile.hidden, _queries(tile, gate), _band(tile, bias, window))
                flat = scores.flatten(0, 1)
                flat.baddbmm_(q_, k_.mT, alpha=scale)
                weights = torch.softmax(flat, -1)
                _queries(tile, out).copy_(torch.bmm(weights, v_).view_as(_queries(tile, out)))
                kept.append(weights)
        ctx.save_for_backward(q, k, v, gate, bias)
        ctx.kept, ctx.tiles, ctx.window = kept, tiles, window
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, gate, bias = ctx.saved_tensors
        scale, window = q.shape[-1] ** -0.5, ctx.window
        of_q, of_gate = torch.empty_like(q), torch.empty_like(gate)
        of_k, of_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        of_bias = torch.zeros_like(bias, dtype=torch.float32)
        with torch.autocast("cpu", enabled=False):
            for tile, weights in zip(ctx.tiles, ctx.kept):
                q_, k_, v_ = _cut(tile, q, k=k, v=v)
                grad_ = _queries(tile, grad).flatten(0, 1).contiguous()
                rows = (-1, q.shape[1])
                _keys(tile, of_v).add_(torch.bmm(weights.mT, grad_).unflatten(0, rows))
                of_weights = torch.bmm(grad_, v_.mT)
                of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
                of_q_ = torch.bmm(of_scores, k_).mul_(scale)
                _queries(tile, of_q).copy_(of_q_.unflatten(0, rows))
                of_k_ = torch.bmm(of_scores.mT, q_)
                _keys(tile, of_k).add_(of_k_.unflatten(0, rows), alpha=scale)
                of_scores = of_scores.unflatten(0, rows)
                band = _band(tile, bias, window)
                _queries(tile, of_gate).copy_((of_scores * band).sum(-1, keepdim=True))
                if ctx.needs_input_grad[4]:
                    for own in of_scores.mul_(_queries(tile, gate)):  # faster than their sum
                        _band(tile, of_bias, window).add_(own)
        of_k, of_v, of_bias = of_k.to(k.dtype), of_v.to(v.dtype), of_bias.to(bias.dtype)
        return of_q, of_k, of_v, of_gate, of_bias, None, None


def _queries(tile: Tile, x: Tensor) -> Tensor:
    return x[tile.rows, :, tile.start : tile.stop]


def _keys(tile: Tile, x: Tensor) -> Tensor:
    return x[tile.rows, :, tile.first : tile.stop]


def _cut(tile: Tile, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the tile multiplies, (rows H, Q or K, d) each."""
    own = (_queries(tile, q), _keys(tile, k), _keys(tile, v))
    return tuple(x.flatten(0, 1).contiguous() for x in own)


def _band(tile: Tile, bias: Tensor, window: int) -> Tensor:
    """(H, Q, window + Q) of a whole band → (H, Q, K) of this tile."""
    return bias[:, : tile.stop - tile.start, tile.first - tile.start + window :][
        ..., : tile.stop - tile.first
    ]


class FlexAttention:
    """The form for a GPU; on a CPU, where it is only tested, uncompiled."""

    def __init__(self, utterance: Tensor, table: Tensor, config: LMConfig) -> None:
        """As attention_over."""
        batch, length = utterance.shape
        self.by_distance = bias_by_distance(table, length, config)
        self.zero = length - 1
        chunk, window = config.chunk, config.window

        def seen(row, head, query, key):
            own = query - query % chunk
            near = (key < own + chunk) & (key >= own - window)
            return near & (utterance[row, query] == utterance[row, key])

        self.compiled = utterance.is_cuda
        make = _compiled(create_block_mask) if self.compiled else create_block_mask
        self.mask = make(seen, batch, None, length, length, device=utterance.device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """(B, H, T, d) each, and (B, H, T) → (B, H, T, d)."""
        by_distance, zero = self.by_distance, self.zero

        def biased(score, row, head, query, key):
            return score + gate[row, head, query] * by_distance[head, key - query + zero]

        attend = _compiled(flex_attention) if self.compiled else flex_attention
        return attend(q, k, v, score_mod=biased, block_mask=self.mask)


@functools.cache
def _compiled(function):
    return torch.compile(function)


def gates(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """(B, T, D) → (B, H, T): how much of the position bias each head lets in (section 3.1).

    weight: (8, d), bias: (8,): eight outputs a head, summed in two fours; a sum of linear outputs
    is one linear output. scale: (1, H, 1, 1).
    """
    heads = scale.shape[1]
    summed = F.linear(
        x.unflatten(-1, (heads, -1)), weight.view(2, 4, -1).sum(1), bias.view(2, 4).sum(1)
    )
    first, second = torch.sigmoid(summed).unbind(-1)  # (B, T, H)
    return (first * (second * scale.view(-1) - 1.0) + 2.0).transpose(1, 2)
