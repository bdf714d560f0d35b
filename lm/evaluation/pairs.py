"""Accuracy on pairs: how often a language model gives the positive recording the higher likelihood.

The confidence interval is Wilson's (1927), with one trial for each group. The score of a group is
the mean over its pairs. Scores between 0 and 1 vary less than scores of 0 or 1, so the interval is
if anything too wide for groups with several pairs or ties. Unlike a bootstrap interval, it has a
width even if all pairs are right. It is about other pairs of the same kind, not about other voices:
the pairs may share a few voices.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm.evaluation.benchmarks import Pair

# The 97.5 % quantile of the normal distribution.
Z = 1.959964
# By which likelihood a pair is judged: per_token of pair_score.
VARIANTS = {"per_token": True, "summed": False}
# Nats, tokens.
Score = tuple[float, int]


@dataclass(frozen=True)
class Judged:
    """A pair, and the result of utterance_scores for each of its recordings."""

    pair: Pair
    positive: Score
    negative: Score


def pair_score(positive: Score, negative: Score, per_token: bool) -> float:
    """1 if the positive has the higher likelihood, 0 if the negative has, 1/2 for a tie.

    per_token: compare nats per token, as SALMon's and SlamKit's evaluations do. Else compare the
    sum, which favours short recordings.
    """
    first, second = (nats / (tokens if per_token else 1) for nats, tokens in (positive, negative))
    return 0.5 if first == second else float(first < second)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a share of `count` independent trials."""
    middle = share + Z**2 / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low, high = ((middle + side) / (1 + Z**2 / count) for side in (-half, half))
    # Rounding must not exclude the share itself.
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def accuracy(judged: Sequence[Judged]) -> dict[str, object]:
    """Numbers of pairs, groups and ties, and both kinds of accuracy with their intervals."""
    figures: dict[str, object] = {
        "pairs": len(judged),
        "groups": len({one.pair.group for one in judged}),
        "ties": sum(one.positive == one.negative for one in judged),
    }
    for name, per_token in VARIANTS.items():
        of_group = group_scores(judged, per_token)
        share = float(np.mean(list(of_group.values())))
        figures[f"accuracy_{name}"] = share
        figures[f"interval_{name}"] = list(wilson(share, len(of_group)))
    return figures


def group_scores(judged: Sequence[Judged], per_token: bool) -> dict[str, float]:
    """{group: mean score of its pairs}. per_token: as of pair_score."""
    of_group = defaultdict(list)
    for one in judged:
        of_group[one.pair.group].append(pair_score(one.positive, one.negative, per_token))
    return {group: float(np.mean(scores)) for group, scores in of_group.items()}


def parts(judged: Sequence[Judged]) -> dict[str, dict[str | None, list[Judged]]]:
    """{task: {None: all of its pairs, subset: those of the subset, by name}}."""
    tasks: dict[str, dict[str | None, list[Judged]]] = {}
    for one in judged:
        tasks.setdefault(one.pair.task, {None: []})[None].append(one)
    for of_task in tasks.values():
        for name in sorted({one.pair.subset for one in of_task[None] if one.pair.subset}):
            of_task[name] = [one for one in of_task[None] if one.pair.subset == name]
    return tasks


def by_task(judged: Sequence[Judged]) -> dict[str, dict]:
    """{task: figures}. Under "subsets" are the figures of a task's subsets, if it has any."""
    figures = {}
    for task, of_task in parts(judged).items():
        figures[task] = accuracy(of_task.pop(None))
        if of_task:
            figures[task]["subsets"] = {name: accuracy(part) for name, part in of_task.items()}
    return figures
