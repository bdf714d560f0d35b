"""Both columns of scores of continuations, with their intervals: as a record, and as a table."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jobs.cli.evaluation.generation_scores import (
    MODEL,
    REAL,
    ContinuationScores,
    word_numbers,
)
from lm.evaluation.generation_measures import auto_bleu, self_bleu
from pipeline.scores.bootstrap import (
    ScoreInterval,
    geometric_mean_interval,
    mean_interval,
    ratio_interval,
)

# Of each score: its unit, and what it is. The order is that of the table.
MEANINGS = {
    "gen_ppl": ("perplexity", "of transcripts: mean over utterances (GSLM)"),
    "gen_ppl_slamkit": ("perplexity", "exp of the mean nats per token of utterances (SlamKit)"),
    "gen_ppl_all_tokens": ("perplexity", "exp of the nats per token, over all tokens of all"),
    "auto_bleu_2_words": ("0 to 1", "words of a transcript that come again in it (GSLM)"),
    "self_bleu_2_words": ("0 to 1", "words that another transcript has too (GSLM)"),
    "vert_2_words": ("0 to 1", "sqrt(self_bleu_2_words x auto_bleu_2_words) (GSLM)"),
    "auto_bleu_2": ("0 to 1", "the same of tokens"),
    "self_bleu_2": ("0 to 1", "the same of tokens"),
    "vert_2": ("0 to 1", "the same of tokens"),
    "same_as_before": ("0 to 1", "share of tokens equal to the one before"),
    "repeated_4grams": ("0 to 1", "share of 4-grams of tokens that were there before"),
    "silence": ("0 to 1", "share of seconds"),
    "longest_pause": ("s", "silence without a break"),
    "speaker_similarity": ("%", "voice of the continuation and of its prompt"),
    "utmos": ("1 to 5", "predicted opinion"),
    "dnsmos_p808": ("1 to 5", "predicted opinion: overall, P.808"),
    "dnsmos_sig": ("1 to 5", "predicted opinion: speech, P.835"),
    "dnsmos_bak": ("1 to 5", "predicted opinion: background, P.835"),
    "dnsmos_ovrl": ("1 to 5", "predicted opinion: overall, P.835"),
}
HEADINGS = {MODEL: "the model's", REAL: "real"}
# What the names of a column's parts in a record begin with.
BEFORE = {MODEL: "", REAL: "reference"}
OURS = "wavmill"


def record_of(scores: ContinuationScores, models: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was scored, as files of figures have it.

    scores, reference: {name: value, low, high, count, unit, model} of the model's continuations and
    of the real ones. utterances, reference_utterances: {key: {name: value or None}} of the same.
    unscored, reference_unscored: {name: {why: how many continuations have no such score}}.
    self_bleu_utterances: among how many self-BLEU is. models: {score: name and version of what
    takes it}; what is not there is this project's own.
    """
    record: dict[str, Any] = {"self_bleu_utterances": len(scores.kept)}
    for name, column in scores.columns.items():
        intervals = _intervals(scores, name)
        before = BEFORE[name]
        record[before or "scores"] = {
            score: intervals[score].record(unit, models.get(score, OURS))
            for score, (unit, _) in MEANINGS.items()
            if score in intervals
        }
        start = f"{before}_" if before else ""
        record[f"{start}utterances"] = _by_utterance(column.values)
        record[f"{start}unscored"] = {score: dict(why) for score, why in column.unscored.items()}
    return record


def _intervals(scores: ContinuationScores, name: str) -> dict[str, ScoreInterval]:
    """All scores of a column over utterances."""
    column, found = scores.columns[name], dict[str, ScoreInterval]()
    for ending, sequences in _kept_sequences(scores, name).items():
        # A transcript without a word is no one's reference.
        keys = [kept.key for kept, sequence in zip(scores.kept, sequences) if len(sequence)]
        sequences = [sequence for sequence in sequences if len(sequence)]
        own, among = [auto_bleu(sequence) for sequence in sequences], self_bleu(sequences)
        column.values[f"self_bleu_2{ending}"] = dict(zip(keys, among.tolist()))
        found[f"vert_2{ending}"] = geometric_mean_interval(among, own)
    for score, values in column.values.items():
        found[score] = mean_interval([value for value in values.values() if value is not None])
    if scores.reader:
        # (utterances, 2): nats, tokens.
        sums = np.array(list(column.text_nats.values())).reshape(-1, 2)
        found["gen_ppl_all_tokens"] = _exp(ratio_interval(sums[:, 0], sums[:, 1]))
        found["gen_ppl_slamkit"] = _exp(mean_interval(list(column.slamkit.values())))
    return found


def _kept_sequences(scores: ContinuationScores, name: str) -> dict[str, list[np.ndarray]]:
    """Tokens, and words as numbers where there are transcripts, of the utterances kept."""
    found = {"": [kept.tokens[name] for kept in scores.kept]}
    if scores.models and scores.models.recognizer:
        found["_words"] = word_numbers([kept.words[name] for kept in scores.kept])
    return found


def _exp(interval: ScoreInterval) -> ScoreInterval:
    """Of a mean of nats, the perplexity."""
    parts = (interval.value, interval.low, interval.high)
    value, low, high = (None if part is None else math.exp(min(part, 700)) for part in parts)
    return ScoreInterval(value, low, high, count=interval.count)


def _by_utterance(
    values: Mapping[str, Mapping[str, float | None]],
) -> dict[str, dict[str, float | None]]:
    keys = dict.fromkeys(key for of_score in values.values() for key in of_score)
    return {key: {name: of_score.get(key) for name, of_score in values.items()} for key in keys}


def print_columns(record: Mapping[str, Any]) -> None:
    """A row a score, the model's beside the real one; then what has no score, and the models."""
    columns = {HEADINGS[name]: BEFORE[name] for name in BEFORE}
    print(f"{'':<20}" + "".join(f"{heading:>30}" for heading in columns))
    for score, (unit, meaning) in MEANINGS.items():
        if score in record["scores"]:
            cells = (_cell(record[before or "scores"][score]) for before in columns.values())
            print(
                f"{score:<20}" + "".join(f"{cell:>30}" for cell in cells) + f"  {unit}; {meaning}"
            )
    for heading, before in columns.items():
        for score, whys in record[f"{before}_unscored" if before else "unscored"].items():
            for why, count in whys.items():
                print(f"{score}, {heading}: {count:,} without: {why}")
    by_model: dict[str, list[str]] = {}
    for score, one in record["scores"].items():
        by_model.setdefault(one["model"], []).append(score)
    for model, names in by_model.items():
        if model != OURS:
            print(f"{', '.join(names)}: {model}")


def _cell(record: Mapping[str, Any]) -> str:
    """A value and its 95 % interval."""
    if record["value"] is None:
        return "undefined"
    if record["low"] is None:
        return _number(record["value"])
    return f"{_number(record['value'])} ({_number(record['low'])} to {_number(record['high'])})"


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"
