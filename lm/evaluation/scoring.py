"""Likelihood of utterances under a language model: nats of their tokens, and bits per token.

All tokens of an utterance count, the first chunk too: it is predicted from a chunk of START. With a
model without START the first chunk is not predicted and does not count. A row holds one utterance.
The model is causal, so that padding behind it does not change its logits.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.config import PAD, START, LMConfig, LMError
from lm.model import SpeechLM, targets, token_losses

# Positions in a batch, padding included. The logits, (positions, K) fp32, take 130 MB for 4,096
# codes and 2 GB for 65,536. A longer utterance is a batch of its own.
BATCH_TOKENS = 8192


def check_tokens(tokens: np.ndarray, codebook_size: int, what: str) -> None:
    """Raises LMError unless `tokens` are (T,) codes, T > 0. what: their name, for the message."""
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise LMError(f"{what} is not a sequence of whole numbers")
    if not len(tokens):
        raise LMError(f"{what} has no tokens")
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= codebook_size:
        wrong = lowest if lowest < 0 else highest
        raise LMError(f"{what} has a token {wrong}, and the codebook has {codebook_size} codes")


def check_scored(tokens: np.ndarray, config: LMConfig, what: str) -> None:
    """Raises LMError for an utterance of which the model predicts no token."""
    if len(tokens) <= config.unscored_tokens:
        raise LMError(
            f"{what} has {len(tokens)} tokens, and the model, without START, predicts none of the "
            f"first {config.unscored_tokens}"
        )


def pad_rows(
    utterances: Sequence[np.ndarray], chunk: int, start: bool = True
) -> tuple[Tensor, Tensor]:
    """(T,) tokens of each utterance → tokens (B, T') int64, utterance (B, T') int32, one row each.

    start: a row starts with a chunk of START, so that position i predicts token i. Otherwise it
    predicts token i + chunk.
    """
    longest, before = max(map(len, utterances)), chunk if start else 0
    size = before - (-longest // chunk) * chunk
    tokens = torch.full((len(utterances), size), PAD, dtype=torch.int64)
    utterance = torch.full((len(utterances), size), -1, dtype=torch.int32)
    tokens[:, :before] = START
    for row, codes in enumerate(utterances):
        tokens[row, before : before + len(codes)] = torch.from_numpy(codes.astype(np.int64))
        utterance[row, : before - (-len(codes) // chunk) * chunk] = 0
    return tokens, utterance


def token_nats(model: SpeechLM, utterances: Sequence[np.ndarray]) -> Tensor:
    """Nats of each token: (B, T') fp32. It has a gradient.

    Zero after the end of an utterance, and for tokens that the model does not predict.
    """
    device, config = next(model.parameters()).device, model.config
    rows = pad_rows(utterances, config.chunk, config.start)
    tokens, utterance = (part.to(device) for part in rows)
    nats = token_losses(model(tokens, utterance), targets(tokens, utterance, config.chunk))
    return nats if config.start else F.pad(nats, (config.chunk, 0))[:, : nats.shape[1]]


def batches(lengths: Sequence[int], chunk: int, batch_tokens: int) -> Iterator[list[int]]:
    """Indices of utterances of similar length, shortest first, up to batch_tokens per batch."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        row = chunk * (1 + -(-lengths[index] // chunk))
        if batch and row * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.no_grad()
def utterance_scores(
    model: SpeechLM,
    utterances: Sequence[np.ndarray],
    batch_tokens: int = BATCH_TOKENS,
    show: Callable[[int], object] | None = None,
    first: Sequence[int] | None = None,
) -> list[tuple[float, int]]:
    """(nats, tokens) of each utterance, in order: negative log-likelihood, and number of tokens.

    utterances: (T,) codes each. show: called with the number of utterances just scored. first: the
    first token of each utterance that counts, after its prompt; None counts all tokens. Those that
    a model without START does not predict never count. Raises LMError for an utterance that is
    empty or has a token that is not a code, and for a model that gives a likelihood that is not
    finite.
    """
    for index, tokens in enumerate(utterances):
        check_tokens(tokens, model.config.codebook_size, f"utterance {index}")
    unscored = model.config.unscored_tokens
    starts = [max(unscored, start) for start in first or [0] * len(utterances)]
    scores: list[tuple[float, int]] = [(0.0, 0)] * len(utterances)
    training = model.training
    model.eval()
    try:
        lengths = [len(tokens) for tokens in utterances]
        for batch in batches(lengths, model.config.chunk, batch_tokens):
            nats = token_nats(model, [utterances[index] for index in batch]).double().cpu()
            for row, index in zip(nats, batch):
                start, end = starts[index], lengths[index]
                scores[index] = float(row[start:end].sum()), max(0, end - start)
            if show:
                show(len(batch))
    finally:
        model.train(training)
    if not all(math.isfinite(nats) for nats, _ in scores):
        raise LMError("the model gives no likelihood: its weights are not finite")
    return scores


def bits_per_token(scores: Sequence[tuple[float, int]]) -> float:
    """Mean over all tokens of all utterances. scores: the result of utterance_scores.

    Raises LMError when no token counts.
    """
    nats, tokens = (sum(column) for column in zip(*scores))
    if not tokens:
        raise LMError("no utterance has a token that the model predicts", "give longer ones")
    return nats / tokens / math.log(2)
