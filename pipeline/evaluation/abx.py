"""ABX error: how often is a segment nearer to one of another phone than to one of the same phone.

A and X are segments of one phone, B of another. All three have the same phone before and after. The
error is the share of such triples with d(X, B) < d(X, A); a tie counts half. Within speakers, all
three segments are by one speaker; across speakers, X is by another. d is dynamic time warping (DTW)
over the angles between frames. The definition is that of Libri-Light and ZeroSpeech 2021; this is a
new implementation for tokens. fast_abx.py has fastabx compute the same, where it is installed.

Intervals are 95 %, by the bootstrap over utterances: a draw weights an utterance by how often it is
drawn, a triple by the product of its three, and the interval is 1.96 standard deviations of the
draws on each side. A standard deviation needs fewer draws than percentiles do (Efron and
Tibshirani 1993, section 6.4), and ABX is slow to draw.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.abx_items import Item, find_segments
from pipeline.scores.bootstrap import SEED, ScoreInterval, divided

# Codebooks up to this size have one table of the angles of all pairs of codes: 64 MB of fp32.
TABLE_CODES = 4096
# Angles in memory at a time, over all pairs of segments that are warped together.
ANGLES_AT_A_TIME = 1 << 20
CELLS_AT_A_TIME = 1000
# Distances are rounded to this, so that sums of the same angles in another order tie.
DECIMALS = 6
# Draws of the bootstrap, and how many of their standard deviations lie on each side.
RESAMPLES = 200
DEVIATIONS = 1.96


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


class AbxErrors(NamedTuple):
    """within, across: ABX errors, 0 to 1; None when there is no triple. counts: of segments."""

    within: ScoreInterval
    across: ScoreInterval
    counts: dict[str, int]


def abx_errors(
    items: list[Item],
    codes: dict[str, np.ndarray],
    centroids: np.ndarray,
    max_group: int = 10,
    max_speakers: int = 5,
    seed: int = 0,
) -> AbxErrors:
    """ABX error within and across speakers, 0 to 1. A token is represented by its centroid.

    codes: {key: (T,)}. centroids: (K, D). max_group: at most this many segments of one phone,
    context and speaker. max_speakers: at most this many speakers of X for each speaker of A and B.
    Both are drawn at random with `seed`. Errors are averaged over contexts (and speakers of X),
    then over speakers, then over ordered pairs of phones. Segments without audio and segments
    without a frame are counted.
    """
    random = np.random.default_rng(seed)
    found = find_segments(items, codes)
    if not found.items:
        nothing = ScoreInterval(None, None, None, count=0)
        return AbxErrors(nothing, nothing, found.counts())
    groups: _Groups = defaultdict(dict)
    for number, item in enumerate(found.items):
        groups[item.context, item.speaker].setdefault(item.phone, []).append(number)
    for phones in groups.values():
        for phone, members in phones.items():
            if len(members) > max_group:
                phones[phone] = random.choice(members, max_group, replace=False).tolist()
    cells = {"within": _within(groups), "across": _across(groups, max_speakers, random)}
    keys, owners = np.unique([item.key for item in found.items], return_inverse=True)
    weights = np.random.default_rng(SEED).multinomial(
        len(keys), np.full(len(keys), 1 / len(keys)), size=RESAMPLES
    )
    # The first row is the score itself: every utterance once.
    weights = np.concatenate([np.ones((1, len(keys))), weights])[:, owners]
    angles = _Angles(centroids)
    return AbxErrors(
        **{
            name: _interval(_mean_errors(of_name, found.codes, angles, weights=weights), len(keys))
            for name, of_name in cells.items()
        },
        counts=found.counts(),
    )


def _interval(errors: np.ndarray, count: int) -> ScoreInterval:
    """errors: (1 + draws,), NaN without a triple. count: of utterances."""
    value, draws = float(errors[0]), errors[1:][np.isfinite(errors[1:])]
    if not math.isfinite(value):
        return ScoreInterval(None, None, None, count=0)
    if count < 2 or len(draws) < RESAMPLES / 2:
        return ScoreInterval(value, None, None, count=count)
    half = DEVIATIONS * float(draws.std(ddof=1))
    return ScoreInterval(value, max(value - half, 0.0), min(value + half, 1.0), count=count)


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


def _mean_errors(
    cells: Iterator[Cell], segments: list[np.ndarray], angles: "_Angles", weights: np.ndarray
) -> np.ndarray:
    """The error with each row of weights: (rows,). weights: (rows, segments)."""
    of_speakers: dict[tuple[tuple[str, str], str], _Mean] = defaultdict(_Mean)
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
            errors = _errors(to_a, to_b, cell=cell, weights=weights)
            of_speakers[cell.phones, cell.speaker].add(errors)
    of_phones: dict[tuple[str, str], _Mean] = defaultdict(_Mean)
    for (phones, _), mean in of_speakers.items():
        of_phones[phones].add(mean.value())
    overall = _Mean()
    for mean in of_phones.values():
        overall.add(mean.value())
    return np.broadcast_to(overall.value(), len(weights))


class _Mean:
    """A mean of (rows,) arrays, of each row over those arrays in which it is a number."""

    def __init__(self) -> None:
        self.sum: np.ndarray | float = 0.0
        self.count: np.ndarray | int = 0

    def add(self, values: np.ndarray) -> None:
        there = np.isfinite(values)
        self.sum = self.sum + np.where(there, values, 0)
        self.count = self.count + there

    def value(self) -> np.ndarray:
        """NaN in rows without a number."""
        return divided(np.atleast_1d(self.sum), np.atleast_1d(self.count))


def _pair_ids(first: list[int], second: list[int], segments: list[np.ndarray]) -> np.ndarray:
    """One integer for each pair of segments: (first, second)."""
    return np.add.outer(np.array(first) * len(segments), np.array(second))


def _errors(to_a: np.ndarray, to_b: np.ndarray, cell: Cell, weights: np.ndarray) -> np.ndarray:
    """Share of triples with d(X, B) < d(X, A), with each row of weights: (rows,).

    to_a: (X, A) distances. to_b: (X, B). weights: (rows, segments). NaN where no triple has weight.
    """
    wrong = (1 + np.sign(to_a[:, :, None] - to_b[:, None, :])) / 2
    x, a, b = (weights[:, side] for side in (cell.x, cell.a, cell.b))
    pairs = x[:, :, None] * a[:, None, :]
    if cell.x is cell.a:
        # A triple needs two different segments of the phone.
        pairs[:, np.arange(len(to_a)), np.arange(len(to_a))] = 0
    triples = pairs.reshape(len(weights), -1) @ wrong.reshape(-1, len(cell.b))
    return divided((triples * b).sum(1), pairs.sum((1, 2)) * b.sum(1))


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
