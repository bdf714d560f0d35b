"""One step of Lloyd's algorithm: the nearest code of each frame, exact sums, and new codes.

Sums are exact: a feature counts as the nearest multiple of 2^-20, and float64 adds such multiples
without rounding while a sum stays under 2^32. Exact sums do not depend on their order, so neither
the number of workers nor who finished first changes a bit of the codes. Sums of many shards are
64-bit integers, which reach 2^42.
"""

import heapq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenizer.encoder.linear import InferenceLinear

# Features count in steps of 2^-20.
STEPS = 2.0**20
# A sum of steps is exact in float64 up to 2^53, and in int64 up to 2^63; half of that leaves room
# for rounding to steps.
MOST_IN_FLOAT, MOST_IN_INT = 2.0**52, 2.0**62
# Rows of a product: enough for full speed, and few enough that their scores are still in cache
# when the best is looked for.
ROWS, MOST_SCORES = 256, 1 << 24
# How far apart the halves of a split code are, as in FAISS.
SPLIT = 1 / 1024


class Nearest:
    """The nearest code of each frame, by distance ("l2") or by angle ("cosine").

    Of equally near codes the lowest wins. Made for one thread; runs in the frames' order.
    """

    def __init__(self, codes: np.ndarray, metric: str, projection: np.ndarray | None) -> None:
        """codes: (K, D) fp32. projection: (P, D), of features and codes, only for "l2"."""
        self.cosine = metric == "cosine"
        table = torch.from_numpy(np.array(codes, np.float32))
        self.project: InferenceLinear | None = None
        if projection is not None:
            self.project = InferenceLinear(torch.from_numpy(np.array(projection, np.float32)))
            table = self.project(table)
        self.rows = max(1, min(ROWS, MOST_SCORES // len(table)))
        if self.cosine:
            self.score = InferenceLinear(torch.nn.functional.normalize(table, dim=1))
        else:
            # argmin |x - c|² = argmax x·c - |c|² / 2: one product with a bias.
            self.score = InferenceLinear(table, -table.square().sum(1) / 2)

    def __call__(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D) fp32 → (n,) int64 codes, and (n,) squared distances or, for "cosine", cosines."""
        parts = [self._block(rows) for rows in frames.split(self.rows)]
        return torch.cat([codes for codes, _ in parts]), torch.cat([value for _, value in parts])

    def _block(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if self.project is not None:
            rows = self.project(rows)
        best, codes = self.score(rows).max(1)
        if self.cosine:
            return codes, best
        return codes, (rows.square().sum(1) - 2 * best).clamp_(min=0)


@dataclass
class Sums:
    """Of each code, the sum and the number of its frames.

    totals: (K, D) float64, in steps. counts: (K,) int64. value: in steps, of all squared distances
    or cosines. largest: magnitude of a feature.
    """

    totals: np.ndarray
    counts: np.ndarray
    value: int = 0
    largest: float = 0.0

    @classmethod
    def zero(cls, codes: int, dimensions: int) -> "Sums":
        """Before any frame."""
        return cls(np.zeros((codes, dimensions)), np.zeros(codes, np.int64))

    @property
    def frames(self) -> int:
        """Frames in all."""
        return int(self.counts.sum())

    @property
    def mean_value(self) -> float:
        """Mean squared distance or, for "cosine", mean cosine."""
        return self.value / STEPS / max(self.frames, 1)

    @torch.inference_mode()
    def add(self, features: np.ndarray, nearest: Nearest) -> None:
        """Assign (n, D) fp32 frames and add them. Raises ValueError where sums become inexact."""
        frames = torch.from_numpy(features)
        if not len(frames):
            return
        if nearest.cosine:
            frames = torch.nn.functional.normalize(frames, dim=1)
        largest = float(frames.abs().max())
        # In this order a NaN is found too.
        self.largest = self.largest if largest <= self.largest else largest
        codes, values = nearest(frames)
        self.counts += torch.bincount(codes, minlength=len(self.counts)).numpy()
        self.check(MOST_IN_FLOAT)
        self.value += int((values.double() * STEPS).round_().long().sum())
        steps = (frames * STEPS).round_().double()
        place = codes[:, None].expand(-1, steps.shape[1])
        torch.from_numpy(self.totals).scatter_add_(0, place, steps)

    def check(self, most: float) -> None:
        """Raises ValueError where a sum may have become larger than can be exact, or is NaN."""
        if not self.counts.max() * self.largest * STEPS < most:
            raise ValueError(
                f"features of up to {self.largest:g} cannot be summed exactly over "
                f"{self.counts.max():,} frames of one code"
            )

    def whole(self) -> "Sums":
        """The same with totals in int64, to be added to those of other shards."""
        return Sums(self.totals.astype(np.int64), self.counts, self.value, largest=self.largest)

    def __add__(self, other: "Sums") -> "Sums":
        """Of two sums in int64. Raises ValueError where one leaves its range."""
        both = Sums(
            self.totals + other.totals,
            self.counts + other.counts,
            self.value + other.value,
            largest=max(self.largest, other.largest),
        )
        both.check(MOST_IN_INT)
        return both


def next_codes(codes: np.ndarray, sums: Sums, metric: str) -> tuple[np.ndarray, int]:
    """The mean of each code's frames; an empty code takes half of the code with the most frames.

    As in FAISS, the halves start a little apart, where the whole was. FAISS draws the code to
    split, with odds by its number of frames, and moves all halves along one line, on which a third
    part would find no frames; here each split has a direction of its own. codes: (K, D) fp32, of
    which those that are empty and cannot be filled stay. Returns the new ones, and how many were
    empty.
    """
    counts = sums.counts
    means = sums.totals / STEPS / np.maximum(counts, 1)[:, None]
    new = np.where(counts[:, None] > 0, means, codes)
    if metric == "cosine":
        new /= np.maximum(np.linalg.norm(new, axis=1, keepdims=True), 1e-12)
    empty = np.flatnonzero(counts == 0)
    largest = [(-int(count), int(code)) for code, count in enumerate(counts) if count > 1]
    heapq.heapify(largest)
    for code in empty:
        if not largest:
            break
        count, whole = heapq.heappop(largest)
        apart = np.random.default_rng(code).choice((-SPLIT, SPLIT), codes.shape[1])
        new[code], new[whole] = new[whole] * (1 + apart), new[whole] * (1 - apart)
        half = -count // 2
        for part, frames in ((whole, -count - half), (int(code), half)):
            if frames > 1:
                heapq.heappush(largest, (-frames, part))
    return new.astype(np.float32), len(empty)
