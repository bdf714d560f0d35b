"""Intervals of what `lm` of jobs/evaluate.py measures, and what they are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm.evaluation.judge import Prediction
    from lm.evaluation.pairs import Judged


def prediction_scores(
    predicted: Prediction, tokens_per_second: float, tokenizer: str | None
) -> dict[str, dict]:
    """Scores of a file of figures, and its utterances: bits per token and per second, perplexity.

    Bits per token of two tokenizers' tokens are not comparable, so that the tokenizer is named as
    what took the score.
    """
    from lm.evaluation.judge import perplexity
    from pipeline.scores.bootstrap import ScoreInterval, ratio_interval

    bits = ratio_interval(predicted.bits, predicted.counts)
    value, low, high = (
        None if part is None else perplexity(part) for part in (bits.value, bits.low, bits.high)
    )
    whose = f"tokens of {tokenizer[:12]}" if tokenizer else "imported tokens"
    rows = zip(predicted.bits.round(4).tolist(), predicted.counts.tolist())
    return {
        "scores": {
            "bits_per_token": bits.record("bits", whose),
            "perplexity": ScoreInterval(value, low, high, count=bits.count).record("", whose),
            "bits_per_second": bits.scaled(tokens_per_second).record("bit/s", ""),
        },
        "utterances": {
            key: {
                "bits_per_token_errors": total,
                "bits_per_token_words": count,
                "bits_per_second_errors": total,
                "bits_per_second_words": round(count / tokens_per_second, 4),
            }
            for key, (total, count) in zip(_distinct(predicted.keys), rows)
        },
    }


def pair_scores(judged: dict[str, list[Judged]]) -> dict[str, dict]:
    """Scores of a file of figures, and its groups of pairs: accuracies of all tasks and subsets.

    judged: {folder: its pairs}. A task is named with its folder where two folders have such a task.
    """
    from lm.evaluation.pairs import VARIANTS, accuracy, group_scores
    from pipeline.scores.bootstrap import ScoreInterval

    scores: dict[str, dict] = {}
    groups: dict[str, dict[str, float]] = {}
    for name, pairs in _named_parts(judged):
        figures: dict[str, Any] = accuracy(pairs)
        for variant, per_token in VARIANTS.items():
            score = f"{name}: accuracy_{variant}"
            low, high = figures[f"interval_{variant}"]
            value, count = figures[f"accuracy_{variant}"], figures["groups"]
            interval = ScoreInterval(value, low, high, count=count)
            scores[score] = interval.record("share", "")
            for group, value in group_scores(pairs, per_token).items():
                groups.setdefault(f"{name}: {group}", {})[score] = value
    return {"scores": scores, "groups": groups}


def _named_parts(judged: dict[str, list[Judged]]) -> Iterator[tuple[str, list[Judged]]]:
    from lm.evaluation.pairs import parts
    from tokenizer.storage.folder import public_url

    of_folder = {folder: parts(pairs) for folder, pairs in judged.items()}
    folders = Counter(task for tasks in of_folder.values() for task in tasks)
    for folder, tasks in of_folder.items():
        for task, subsets in tasks.items():
            name = task if folders[task] == 1 else f"{public_url(folder)}: {task}"
            for subset, pairs in subsets.items():
                yield (f"{name}: {subset}" if subset else name), pairs


def _distinct(keys: list[str]) -> Iterator[str]:
    """The keys; where several shards have one, all but the first get a number."""
    seen: Counter[str] = Counter()
    for key in keys:
        seen[key] += 1
        yield key if seen[key] == 1 else f"{key} ({seen[key]})"
