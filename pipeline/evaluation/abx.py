"""ABX error: how often is a segment nearer to one of another phone than to one of the same phone.

A and X are segments of one phone, B of another. All three have the same phone before and after. The
error is the share of such triples with d(X, B) < d(X, A); a tie counts half. Within speakers, all
three segments are by one speaker; across speakers, X is by another. d is dynamic time warping (DTW)
over the angles between frames. The definition is that of Libri-Light and ZeroSpeech 2021; this is a
new implementation for tokens. fast_abx.py has fastabx compute the same, where it is installed.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.abx_items import Item, find_segments

# Codebooks up to this size have one table of the angles of all pairs of codes: 64 MB of fp32.
TABLE_CODES = 4096
# Angles in memory at a time, over all pairs of segments that are warped together.
ANGLES_AT_A_TIME = 1 << 20
CELLS_AT_A_TIME = 1000
# Distances are rounded to this, so that sums of the same angles in another order tie.
DECIMALS = 6


# {(context, speaker): {phone: indices of segments}}
_Groups = dict[tuple[tuple[str, str], str], dict[str, list[int]]]


class Cell(NamedTuple):
    """All triples of one context, pair of phones, speaker of A and B, and speaker of X.

    phones: of A and of B. x, a, b: indices of the segments. Within speakers, x is a.
    """

    speaker: str
    phones: tuple[str, str]
    x: list[int]
    a: list[int]
    b: list[int]


def abx_errors(
    items: list[Item],
    codes: dict[str, np.ndarray],
    centroids: np.ndarray,
    max_group: int = 10,
    max_speakers: int = 5,
    seed: int = 0,
) -> dict[str, float | int]:
    """ABX error within and across speakers, 0 to 1. A token is represented by its centroid.

    codes: {key: (T,)}. centroids: (K, D). max_group: at most this many segments of one phone,
    context and speaker. max_speakers: at most this many speakers of X for each speaker of A and B.
    Both are drawn at random with `seed`. Errors are averaged over contexts (and speakers of X),
    then over speakers, then over ordered pairs of phones. NaN when there is no triple. Segments
    without audio and segments without a frame are counted.
    """
    random = np.random.default_rng(seed)
    found = find_segments(items, codes)
    groups: _Groups = defaultdict(dict)
    for number, item in enumerate(found.items):
        groups[item.context, item.speaker].setdefault(item.phone, []).append(number)
    for phones in groups.values():
        for phone, members in phones.items():
            if len(members) > max_group:
                phones[phone] = random.choice(members, max_group, replace=False).tolist()
    angles = _Angles(centroids)
    return {
        "abx_within": _mean_error(_within(groups), found.codes, angles),
        "abx_across": _mean_error(_across(groups, max_speakers, random), found.codes, angles),
        **found.counts(),
    }


def _within(groups: _Groups) -> Iterator[Cell]:
    for (_, speaker), phones in groups.items():
        for a, members in phones.items():
            for b in phones:
                if a != b and len(members) > 1:
                    yield Cell(speaker, (a, b), x=members, a=members, b=phones[b])


def _across(groups: _Groups, max_speakers: int, random: np.random.Generator) -> Iterator[Cell]:
    speakers = defaultdict(list)
    for (context, speaker), phones in groups.items():
        for phone in phones:
            speakers[context, phone].append(speaker)
    for (context, speaker), phones in groups.items():
        for a, members in phones.items():
            others = [name for name in speakers[context, a] if name != speaker]
            if len(phones) > 1 and len(others) > max_speakers:
                others = random.choice(others, max_speakers, replace=False).tolist()
            for other in others:
                for b in phones:
                    if a != b:
                        x = groups[context, other][a]
                        yield Cell(speaker, (a, b), x=x, a=members, b=phones[b])


def _mean_error(cells: Iterator[Cell], segments: list[np.ndarray], angles: "_Angles") -> float:
    errors = defaultdict(list)
    while batch := list(islice(cells, CELLS_AT_A_TIME)):
        # A pair of segments occurs in many cells; its distance is computed once.
        wanted = [_pair_ids(cell.x, side, segments) for cell in batch for side in (cell.a, cell.b)]
        pairs, places = np.unique(np.concatenate([w.ravel() for w in wanted]), return_inverse=True)
        distances = dtw_distances(
            [segments[pair // len(segments)] for pair in pairs],
            [segments[pair % len(segments)] for pair in pairs],
            angles,
        )
        parts = np.split(distances[places], np.cumsum([w.size for w in wanted])[:-1])
        tables = [part.reshape(w.shape) for part, w in zip(parts, wanted)]
        for cell, to_a, to_b in zip(batch, tables[::2], tables[1::2]):
            errors[cell.phones, cell.speaker].append(_error(to_a, to_b, cell.x is cell.a))
    of_phones = defaultdict(list)
    for (phones, _), values in errors.items():
        of_phones[phones].append(np.mean(values))
    if not of_phones:
        return math.nan
    return float(np.mean([np.mean(values) for values in of_phones.values()]))


def _pair_ids(first: list[int], second: list[int], segments: list[np.ndarray]) -> np.ndarray:
    """One integer for each pair of segments: (first, second)."""
    return np.add.outer(np.array(first) * len(segments), np.array(second))


def _error(to_a: np.ndarray, to_b: np.ndarray, same: bool) -> float:
    """Share of triples with d(X, B) < d(X, A). to_a: (X, A) distances. to_b: (X, B).

    same: X and A are the same segments, and a triple needs two different ones.
    """
    difference = np.sign(to_a[:, :, None] - to_b[:, None, :])
    wrong = (1 + difference) / 2
    if same:
        wrong = wrong[~np.eye(len(to_a), dtype=bool)]
    return float(wrong.mean())


class _Angles:
    """Angles between centroids over π, 0 to 1. The angle of a code to itself is exactly 0."""

    def __init__(self, centroids: np.ndarray) -> None:
        norms = np.linalg.norm(centroids, axis=1, keepdims=True)
        self.unit = (centroids / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)
        self.table = None
        if len(centroids) <= TABLE_CODES:
            self.table = np.arccos(np.clip(self.unit @ self.unit.T, -1, 1)) / np.pi
            np.fill_diagonal(self.table, 0)

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(P, N) codes and (P, M) codes → (P, N, M)."""
        if self.table is not None:
            return self.table[first[:, :, None], second[:, None, :]]
        cosines = self.unit[first] @ self.unit[second].transpose(0, 2, 1)
        angles = np.arccos(np.clip(cosines, -1, 1)) / np.pi
        return np.where(first[:, :, None] == second[:, None, :], 0, angles)

    def pairs_at_a_time(self, longest: int) -> int:
        """How many pairs of segments of up to `longest` frames fit into one call of `between`."""
        size = longest if self.table is not None else max(longest, self.unit.shape[1])
        return max(1, ANGLES_AT_A_TIME // (longest * size))


def dtw_distances(first: list[np.ndarray], second: list[np.ndarray], angles: _Angles) -> np.ndarray:
    """Mean angle along the cheapest warping path of each pair of segments: (P,) float64.

    first, second: P code sequences each. Among paths of equal cost, a diagonal step is preferred,
    then a step along the second segment, seen from the end, as in Libri-Light.
    """
    longest = np.array([max(len(x), len(y)) for x, y in zip(first, second)])
    order = np.argsort(-longest, kind="stable")
    distances = np.empty(len(order))
    start = 0
    while start < len(order):
        batch = order[start : start + angles.pairs_at_a_time(longest[order[start]])]
        x, y = _padded([first[i] for i in batch]), _padded([second[i] for i in batch])
        ends = np.array([(len(first[i]) - 1, len(second[i]) - 1) for i in batch]).T
        distances[batch] = _warp(angles.between(x, y), ends)
        start += len(batch)
    return distances.round(DECIMALS)


def _padded(sequences: list[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row, sequence in zip(padded, sequences):
        row[: len(sequence)] = sequence
    return padded


def _warp(frames: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Mean cost of the cheapest path: (P,). frames: (P, N, M) angles.

    ends: (2, P) last frame of the first and the second segment.
    """
    pairs, height, width = frames.shape
    frames = np.ascontiguousarray(frames.transpose(1, 2, 0), np.float64)
    means = np.empty(pairs)
    for i in range(height):
        if i == 0:
            cost = frames[0].cumsum(0)
            steps = np.repeat(np.arange(1, width + 1)[:, None], pairs, 1)
        else:
            cost, steps = _next_row(cost, steps, frames[i])
        done = np.flatnonzero(ends[0] == i)
        means[done] = cost[ends[1, done], done] / steps[ends[1, done], done]
    return means


def _next_row(
    cost: np.ndarray, steps: np.ndarray, frames: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Costs and lengths of the paths at the first segment's next frame: (M, P) each."""
    new_cost, new_steps = np.empty_like(cost), np.empty_like(steps)
    new_cost[0], new_steps[0] = cost[0] + frames[0], steps[0] + 1
    for j in range(1, len(cost)):
        straight = cost[j] < new_cost[j - 1]
        best = np.where(straight, cost[j], new_cost[j - 1])
        length = np.where(straight, steps[j], new_steps[j - 1])
        diagonal = cost[j - 1] <= best
        new_cost[j] = np.where(diagonal, cost[j - 1], best) + frames[j]
        new_steps[j] = np.where(diagonal, steps[j - 1], length) + 1
    return new_cost, new_steps
