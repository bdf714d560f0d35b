"""Evaluate a language model: bits per token on token shards, likelihoods of pairs of recordings."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm.config import LMError
from lm.evaluation.audio_tokens import audio_tokens
from lm.evaluation.benchmarks import Pair, read_pairs
from lm.evaluation.pairs import Judged
from lm.evaluation.scoring import (
    BATCH_TOKENS,
    bits_per_token,
    check_scored,
    check_tokens,
    utterance_scores,
)
from lm.model import SpeechLM
from lm.training.data import TokenShards
from tokenizer.errors import UsageError
from tokenizer.storage.fetch import fetch_folder
from tokenizer.tokenizer import Tokenizer

# Utterances are sorted by length and scored this many tokens at a time.
TOKENS_AT_ONCE = 1 << 20
# Makes a progress display of (what, unit, total); its update() takes how many more are done.
Progress = Callable[[str, str, int], AbstractContextManager[Any]]


def open_tokens(url: str, model: SpeechLM) -> TokenShards:
    """The token shards of an OUTPUT. Raises UsageError if they are none, or another tokenizer's."""
    tokens, _ = TokenShards.open(url)
    tokens.folder.check_tokenizer(model.config.tokenizer, "the model's")
    return tokens


def read_utterances(tokens: TokenShards, model: SpeechLM) -> Iterator[tuple[str, np.ndarray]]:
    """(key, (T,) tokens) of all utterances that have any.

    Raises UsageError for an utterance with tokens that the model does not know.
    """
    try:
        for key, utterance in tokens.utterances():
            if len(utterance):
                check_tokens(utterance, model.config.codebook_size, key)
                yield key, utterance
    except UsageError as error:
        error.remedy = error.remedy or "give tokens of the model's codebook"
        raise


@dataclass(frozen=True)
class Prediction:
    """How well a model predicts token shards.

    figures: over all tokens that it predicts; `tokens` and `audio_hours` are without others. keys:
    of the utterances of which it predicts any. bits, counts: (utterances,) bits of their predicted
    tokens, and how many those are.
    """

    figures: dict[str, float | int]
    keys: list[str]
    bits: np.ndarray
    counts: np.ndarray


def predict(
    model: SpeechLM,
    tokens: TokenShards,
    *,
    progress: Progress,
    batch_tokens: int = BATCH_TOKENS,
) -> Prediction:
    """Score all utterances of token shards.

    A model without START does not predict an utterance's first chunk.

    Raises UsageError as read_utterances does, and for a model whose weights are not finite.
    """
    keys: list[str] = []
    scores: list[tuple[float, int]] = []
    with progress("scored", "utterances", tokens.num_utterances) as line:
        for block in _blocks(read_utterances(tokens, model)):
            keys += [key for key, _ in block]
            utterances = [utterance for _, utterance in block]
            scores += _scores(model, utterances, batch_tokens=batch_tokens, show=line.update)
    bits, count = bits_per_token(scores), sum(length for _, length in scores)
    scored = [number for number, (_, length) in enumerate(scores) if length]
    return Prediction(
        {
            "bits_per_token": bits,
            "perplexity": perplexity(bits),
            "bits_per_second": bits * tokens.tokens_per_second,
            "tokens": count,
            "utterances_scored": len(scores),
            "audio_hours": count / tokens.tokens_per_second / 3600,
        },
        keys=[keys[number] for number in scored],
        bits=np.array([scores[number][0] for number in scored]) / math.log(2),
        counts=np.array([scores[number][1] for number in scored]),
    )


def perplexity(bits: float) -> float:
    """2 to the bits per token; infinite where that is no float any more."""
    return 2**bits if bits < 1000 else math.inf


def _blocks(utterances: Iterator[tuple[str, np.ndarray]]) -> Iterator[list]:
    """Consecutive (key, tokens), about TOKENS_AT_ONCE tokens at a time."""
    block: list[tuple[str, np.ndarray]] = []
    size = 0
    for key, utterance in utterances:
        block.append((key, utterance))
        size += len(utterance)
        if size >= TOKENS_AT_ONCE:
            yield block
            block, size = [], 0
    if block:
        yield block


def find_pairs(url: str) -> list[Pair]:
    """The pairs of a folder or URL. Raises UsageError if there is no such folder or it has none."""
    folder = fetch_folder(url, "pairs of recordings")
    try:
        return read_pairs(folder)
    except LMError as error:
        error.remedy = error.remedy or (
            "give a benchmark's folder, or make one with jobs/make_pairs.py"
        )
        raise


def judge_pairs(
    model: SpeechLM,
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    *,
    progress: Progress,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Judged]:
    """The likelihoods of both recordings of each pair.

    Recordings with the same tokens are scored once. Raises LMError when a recording cannot be
    tokenized or is too short for the model, and for a model whose weights are not finite.
    """
    paths = list(dict.fromkeys(path for pair in pairs for path in (pair.positive, pair.negative)))
    with progress("tokenized", "files", len(paths)) as line:
        try:
            tokens = dict(zip(paths, audio_tokens(paths, tokenizer, line.update), strict=True))
            for path, recording in tokens.items():
                check_scored(recording, model.config, what=f"{path.parent.name}/{path.name}")
        except LMError as error:
            error.remedy = error.remedy or "mend the file or take it out"
            raise
    distinct = {utterance.tobytes(): utterance for utterance in tokens.values()}
    with progress("scored", "files", len(distinct)) as line:
        scores = _scores(
            model, list(distinct.values()), batch_tokens=batch_tokens, show=line.update
        )
    score_of = dict(zip(distinct, scores, strict=True))
    score = {path: score_of[utterance.tobytes()] for path, utterance in tokens.items()}
    return [Judged(pair, score[pair.positive], score[pair.negative]) for pair in pairs]


def _scores(
    model: SpeechLM,
    utterances: list[np.ndarray],
    batch_tokens: int,
    show: Callable[[int], object],
) -> list[tuple[float, int]]:
    try:
        return utterance_scores(model, utterances, batch_tokens=batch_tokens, show=show)
    except LMError as error:  # tokens are checked already: it is the model's weights
        error.argument, error.remedy = "lm", error.remedy or "train it again"
        raise
