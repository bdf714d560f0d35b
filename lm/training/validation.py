"""Bits per token of held-out utterances, while a model is trained."""

import math

import torch

from lm.model import SpeechLM, targets, token_losses
from lm.training.data import TokenShards
from lm.training.rows import validation_batches
from tokenizer.training.optimizers import sum_over_processes

# A row holds the longest utterance, up to here; longer ones are cut.
LONGEST_ROW = 4096
# Positions of a batch: no more than a step of training would hold.
BATCH_POSITIONS = 16_384


def bits_per_token(model: SpeechLM, tokens: TokenShards, rank: int, processes: int) -> float:
    """Mean over all tokens, each from what is before it in its utterance and the window.

    Every process computes a share, and all get the mean of all.
    """
    chunk = model.config.chunk
    longest = max(int(s.taken_lengths.max(initial=1)) for s in tokens.shards)
    row = min(chunk - (-longest // chunk) * chunk, LONGEST_ROW // chunk * chunk)
    device = next(model.parameters()).device
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    batches = validation_batches(tokens, chunk, row_tokens=row, rows=max(1, BATCH_POSITIONS // row))
    for number, batch in enumerate(batches):
        if number % processes == rank:
            own, utterance = (part.to(device) for part in batch)
            wanted = targets(own, utterance, chunk)
            losses = token_losses(model(own, utterance), wanted)
            totals += torch.stack([losses.double().sum(), (wanted >= 0).double().sum()])
    sum_over_processes([totals])
    nats, count = totals.tolist()
    return nats / count / math.log(2)
