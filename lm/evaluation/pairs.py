"""How often a language model finds the right one of two recordings the likelier.

The interval is Wilson's (1927) over groups. A group's score, the mean of its pairs', lies between 0
and 1, and of all such scores those that are 0 or 1 vary most: so the interval is, if anything, too
wide where groups hold several pairs or ties. It stays within 0 to 1 and is no point when all pairs
are right, as a bootstrap's would be. It says what other pairs of the kind would give, not what
other voices would: pairs of a few voices share these.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm.evaluation.benchmarks import Pair

# The normal distribution's 97.5 % point.
Z = 1.959964
Score = tuple[float, int]


@dataclass(frozen=True)
class Judged:
    """A pair and what utterance_scores gives for either recording."""

    pair: Pair
    positive: Score
    negative: Score


def right(positive: Score, negative: Score, per_token: bool) -> float:
    """1 when the positive is the likelier, 0 when the negative is, and 1/2 when neither is.

    per_token: compare nats per token, as SALMon's and SlamKit's own runs do; else in all, which
    prefers short ones.
    """
    first, second = (nats / (tokens if per_token else 1) for nats, tokens in (positive, negative))
    return 0.5 if first == second else float(first < second)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of `count` independent trials."""
    middle = share + Z**2 / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low, high = ((middle + side) / (1 + Z**2 / count) for side in (-half, half))
    # Rounding may not put the share itself outside.
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def accuracy(judged: Sequence[Judged]) -> dict[str, object]:
    """Figures of some pairs: how many, and both variants of accuracy with their intervals."""
    figures: dict[str, object] = {
        "pairs": len(judged),
        "groups": len({one.pair.group for one in judged}),
        "ties": sum(one.positive == one.negative for one in judged),
    }
    for name, per_token in (("per_token", True), ("summed", False)):
        of_group = defaultdict(list)
        for one in judged:
            of_group[one.pair.group].append(right(one.positive, one.negative, per_token))
        share = float(np.mean([np.mean(scores) for scores in of_group.values()]))
        figures[f"accuracy_{name}"] = share
        figures[f"interval_{name}"] = list(wilson(share, len(of_group)))
    return figures


def by_task(judged: Sequence[Judged]) -> dict[str, dict]:
    """{task: figures, with those of its subsets, if it has any, under "subsets"}."""
    tasks, subsets = defaultdict(list), defaultdict(lambda: defaultdict(list))
    for one in judged:
        tasks[one.pair.task].append(one)
        if one.pair.subset:
            subsets[one.pair.task][one.pair.subset].append(one)
    found = {}
    for task, own in tasks.items():
        found[task] = accuracy(own)
        if task in subsets:
            parts = sorted(subsets[task].items())
            found[task]["subsets"] = {name: accuracy(part) for name, part in parts}
    return found
