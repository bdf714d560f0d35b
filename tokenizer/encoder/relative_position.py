"""WavLM's gated relative position bias: a learned bias per distance, scaled by a gate per query.

The attention score of query i and key j gets gate_i * bias[j - i]. Distances share buckets, and
each head computes its gate from its part of query i's input (WavLM, arXiv 2110.13900, section 3.1).
"""

import math
from typing import Protocol

import torch
from torch import Tensor


class Buckets(Protocol):
    """A configuration that says how distances share buckets: an encoder's or a language model's."""

    @property
    def num_buckets(self) -> int:
        """Number of buckets, half of them for keys after the query."""

    @property
    def max_bucket_distance(self) -> int:
        """The distance from which on all keys share the last bucket."""


def position_buckets(frames: int, config: Buckets) -> Tensor:
    """(2 T - 1,) int64: the bucket of each distance j - i, from -(T - 1) to T - 1.

    Half of the buckets are for keys ahead. In each half, the first half of the buckets holds one
    distance each; the rest grow logarithmically (WavLM, section 3.1).
    """
    buckets, farthest = config.num_buckets // 2, config.max_bucket_distance
    exact = buckets // 2
    distance = torch.arange(-frames + 1, frames)
    size = distance.abs()
    log = torch.log(size.clamp(min=1).float() / exact) / math.log(farthest / exact)
    large = (exact + log * (buckets - exact)).long().clamp(max=buckets - 1)
    return torch.where(size < exact, size, large) + (distance > 0) * buckets


def bias_by_distance(table: Tensor, frames: int, config: Buckets) -> Tensor:
    """(buckets, H) → (H, 2 T - 1): the bias of each distance j - i, from -(T - 1) to T - 1."""
    return table[position_buckets(frames, config).to(table.device)].T.contiguous()


def block_bias(table: Tensor, queries: int, past: int, config: Buckets) -> Tensor:
    """(buckets, H) → (H, queries, past + queries): a block's queries, keys from `past` before it.

    With no past it is the bias of a whole utterance.
    """
    keys = past + queries
    by_distance = bias_by_distance(table, keys, config)
    # Row i starts at the distance -past - i: sliding windows, last one first.
    return by_distance.unfold(1, keys, 1)[:, :queries].flip(1).contiguous()


def position_gate(logits: Tensor, scale: Tensor) -> Tensor:
    """(..., 2 n) → (..., n): the gates, from the first and the second half of the logits.

    scale: learned, one for each head; broadcasts with (..., n).
    """
    first, second = torch.sigmoid(logits).chunk(2, dim=-1)
    return first * (second * scale - 1.0) + 2.0
