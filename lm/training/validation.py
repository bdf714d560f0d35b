"""Bits per token of held-out utterances, while a model trains."""

import math

import torch

from lm.model import SpeechLM, targets, token_losses
from lm.training.data import TokenShards
from lm.training.rows import positions, validation_batches
from tokenizer.training.processes import process_count, process_rank, sum_over_processes

# A row holds the longest utterance, up to this many positions; longer utterances are cut.
LONGEST_ROW = 4096
# Positions of a batch: no more than a training step holds.
BATCH_POSITIONS = 16_384


def bits_per_token(model: SpeechLM, tokens: TokenShards) -> float:
    """Mean over all tokens, each predicted from the tokens before it in its utterance and window.

    tokens: with at least one that the model predicts. Each process computes a share of the batches;
    all return the mean over all tokens.
    """
    config, chunk = model.config, model.config.chunk
    longest = max(
        int(positions(s.taken_lengths, chunk, config.start).max(initial=0)) for s in tokens.shards
    )
    row_tokens = min(longest, LONGEST_ROW // chunk * chunk)
    device = next(model.parameters()).device
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    batches = validation_batches(
        tokens, config, row_tokens=row_tokens, rows=max(1, BATCH_POSITIONS // row_tokens)
    )
    for number, batch in enumerate(batches):
        if number % process_count() == process_rank():
            inputs, utterance = (part.to(device) for part in batch)
            wanted = targets(inputs, utterance, chunk)
            losses = token_losses(model(inputs, utterance), wanted)
            totals += torch.stack([losses.double().sum(), (wanted >= 0).double().sum()])
    sum_over_processes([totals])
    nats, count = totals.tolist()
    return nats / count / math.log(2)
