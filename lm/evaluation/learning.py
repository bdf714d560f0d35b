"""How a training went, by its log, and how well a model predicts by position in an utterance."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lm.evaluation.scoring import BATCH_TOKENS, batches, check_tokens, token_nats
from lm.model import SpeechLM
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder

# A position of fewer utterances is left out, and a curve has no more points.
LEAST_UTTERANCES, MOST_POINTS = 4, 50


def read_log(lm: str) -> list[dict]:
    """The lines of training/log.jsonl beside a model/ that a training wrote; [] if there is none.

    lm: the model's folder or URL. Raises UsageError for a log that is no JSON lines with "step".
    """
    parent, _, name = lm.rstrip("/").rpartition("/")
    if name != "model":
        return []
    text = Folder(parent or ("/" if lm.startswith("/") else "."), "lm").read_text(
        "training/log.jsonl"
    )
    try:
        lines = [json.loads(line) for line in (text or "").splitlines()]
        if any(not isinstance(line["step"], int) for line in lines):
            raise ValueError("a step is no whole number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"the training/log.jsonl beside it is damaged: {error}",
            "mend or remove it",
            value=lm,
            argument="lm",
        ) from error
    return lines


@dataclass(frozen=True)
class PositionBits:
    """Bits per token by position: over time, and by the place in a chunk.

    seconds, bits: of each point of the curve, over whole chunks. in_chunk: (chunk,) bits of the
    first, second and further tokens of all chunks. utterances: that were scored.
    """

    seconds: list[float]
    bits: list[float]
    in_chunk: list[float]
    utterances: int


@torch.no_grad()
def bits_by_position(model: SpeechLM, utterances: Sequence[np.ndarray]) -> PositionBits:
    """How well a model predicts tokens by where they are. utterances: (T,) codes each.

    Raises LMError for a token that the model does not know.
    """
    config, chunk = model.config, model.config.chunk
    for number, tokens in enumerate(utterances):
        check_tokens(tokens, config.codebook_size, f"utterance {number}")
    lengths = [len(tokens) for tokens in utterances]
    size = -(-max(lengths) // chunk) * chunk
    nats, count = np.zeros(size), np.zeros(size)
    for batch in batches(lengths, chunk, BATCH_TOKENS):
        rows = token_nats(model, [utterances[number] for number in batch]).double().cpu().numpy()
        for row, number in zip(rows, batch):
            nats[config.unscored_tokens : lengths[number]] += row[
                config.unscored_tokens : lengths[number]
            ]
            count[config.unscored_tokens : lengths[number]] += 1
    by_chunk = nats.reshape(-1, chunk), count.reshape(-1, chunk)
    enough = np.flatnonzero(by_chunk[1].max(1) >= min(LEAST_UTTERANCES, len(utterances)))
    seconds, bits = [], []
    for group in np.array_split(enough, min(MOST_POINTS, max(len(enough), 1))):
        total = by_chunk[1][group].sum()
        if total:
            middle = (group.mean() + 0.5) * chunk * config.frames_per_token
            seconds.append(float(middle / FRAMES_PER_SECOND))
            bits.append(float(by_chunk[0][group].sum() / total / math.log(2)))
    sums = by_chunk[1].sum(0)
    in_chunk = [float(n / c / math.log(2)) for n, c in zip(by_chunk[0].sum(0), sums) if c]
    return PositionBits(seconds, bits, in_chunk=in_chunk, utterances=len(utterances))
