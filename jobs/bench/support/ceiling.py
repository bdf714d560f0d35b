"""What the machine can do at best: the rate of its matrix products, and of reading memory."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.bench.support.timing import Row
from tokenizer.encoder.linear import InferenceLinear

# Far more than a cache holds.
READ_BYTES = 400_000_000


def gemm_rate(precision: torch.dtype, device: str, turns: int = 9) -> float:
    """FLOP per second of the fastest matrix product at hand, in the feed-forward's shape."""
    rows, narrow, wide = 2048, 1024, 4096  # wavlm-large's
    rates = []
    for inner, outer in ((narrow, wide), (wide, narrow)):
        x = torch.randn(rows, inner, device=device, dtype=precision)
        weight = torch.randn(outer, inner, device=device, dtype=precision)
        for product in (InferenceLinear(weight), lambda x, w=weight: F.linear(x, w)):
            row = Row(name="", run=partial(ten_products, product, x))
            for _ in range(turns):
                row.turn()
            rates.append(10 * 2 * rows * inner * outer / row.median)
    return max(rates)


def ten_products(product: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """One product takes too short a time to measure."""
    for _ in range(10):
        product(x)


def read_rate(turns: int = 9) -> float:
    """Bytes per second of memory that is read once, by a sum of fp32."""
    row = Row(name="", run=torch.ones(READ_BYTES // 4).sum, memory=False)
    for _ in range(turns):
        row.turn()
    return READ_BYTES / row.median
