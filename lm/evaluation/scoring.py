"""How likely a language model finds utterances: nats over their tokens, and bits per token.

An utterance is scored from its first chunk on, after a chunk of START, and with nothing but itself
in sight: the model is causal, so what lies behind it in a row changes no logit of it.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lm.config import PAD, START, LMError
from lm.model import SpeechLM, targets, token_losses

# Positions of a batch, padding included, so that its logits, (positions, K) fp32, take 130 MB at
# 4,096 codes and 2 GB at 65,536. One utterance that is longer goes through alone.
BATCH_TOKENS = 8192


def check_tokens(tokens: np.ndarray, codebook_size: int, what: str) -> None:
    """Raises LMError unless this is a (T,) array of one or more codes. what: for the message."""
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise LMError(f"{what} is no sequence of whole numbers")
    if not len(tokens):
        raise LMError(f"{what} has no tokens")
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= codebook_size:
        wrong = lowest if lowest < 0 else highest
        raise LMError(f"{what} has a token {wrong}, and the codebook has {codebook_size} codes")


def pad_rows(utterances: Sequence[np.ndarray], chunk: int) -> tuple[Tensor, Tensor]:
    """(T,) tokens of each utterance → tokens (B, T') int64 and utterance (B, T') int32, a row each.

    A row begins with a chunk of START, so position i predicts token i.
    """
    longest = max(map(len, utterances))
    size = chunk * (1 + -(-longest // chunk))
    tokens = torch.full((len(utterances), size), PAD, dtype=torch.int64)
    utterance = torch.full((len(utterances), size), -1, dtype=torch.int32)
    tokens[:, :chunk] = START
    for row, own in enumerate(utterances):
        tokens[row, chunk : chunk + len(own)] = torch.from_numpy(own.astype(np.int64))
        utterance[row, : chunk * (1 + -(-len(own) // chunk))] = 0
    return tokens, utterance


def token_nats(model: SpeechLM, utterances: Sequence[np.ndarray]) -> Tensor:
    """Nats of each token: (B, T') fp32, zero beyond an utterance's end. Gradients go through it."""
    device, chunk = next(model.parameters()).device, model.config.chunk
    tokens, utterance = (part.to(device) for part in pad_rows(utterances, chunk))
    return token_losses(model(tokens, utterance), targets(tokens, utterance, chunk))


def batches(lengths: Sequence[int], chunk: int, batch_tokens: int) -> Iterator[list[int]]:
    """Places of utterances of like length, shortest first, whose rows have at most batch_tokens."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        row = chunk * (1 + -(-lengths[place] // chunk))
        if batch and row * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
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
    """(nats, tokens) of each utterance, in order: minus its log-likelihood, and its length.

    utterances: (T,) whole numbers each. show: called with the number of utterances just scored.
    first: of each utterance, the first token that counts; what is before it is its prompt. Without
    it all tokens count. Raises LMError for an utterance that is empty or has other tokens than
    codes, and for a model that gives no number.
    """
    for place, tokens in enumerate(utterances):
        check_tokens(tokens, model.config.codebook_size, f"utterance {place}")
    begins = first or [0] * len(utterances)
    scores: list[tuple[float, int]] = [(0.0, 0)] * len(utterances)
    training = model.training
    model.eval()
    try:
        lengths = [len(tokens) for tokens in utterances]
        for batch in batches(lengths, model.config.chunk, batch_tokens):
            nats = token_nats(model, [utterances[place] for place in batch]).double().cpu()
            for row, place in zip(nats, batch):
                begin, end = begins[place], lengths[place]
                scores[place] = float(row[begin:end].sum()), end - begin
            if show:
                show(len(batch))
    finally:
        model.train(training)
    if not all(math.isfinite(nats) for nats, _ in scores):
        raise LMError("the model gives no likelihood: its weights are not finite")
    return scores


def bits_per_token(scores: Sequence[tuple[float, int]]) -> float:
    """Over all tokens of all utterances: the mean of what utterance_scores gives."""
    nats, tokens = (sum(column) for column in zip(*scores))
    return nats / tokens / math.log(2)
