"""What tests of language models share: token shards without a tokenize job, a short training."""

import json
from pathlib import Path

import numpy as np
import torch

from lm.config import LMConfig
from lm.evaluation.scoring import pad_rows
from lm.model import SpeechLM, targets, token_losses
from pipeline.shards.report import ShardReport
from tokenizer.storage.token_shards import TokenShardWriter

torch.set_num_threads(1)


def write_tokens(
    folder: Path, utterances: list[np.ndarray], codebook_size: int, tokenizer: str | None = None
) -> Path:
    """An OUTPUT of one shard, with keys u0, u1 and so on, as jobs/tokenize.py lays it out."""
    for name in ("shards", "reports"):
        (folder / name).mkdir(parents=True)
    record = {"tokenizer": tokenizer, "codebook_size": codebook_size, "tokens_per_second": 50}
    (folder / "run.json").write_text(json.dumps(record))
    tar = TokenShardWriter(folder / "shards/a.tar", shard="a", codebook_size=codebook_size)
    report = ShardReport("a", codebook_size)
    for number, tokens in enumerate(utterances):
        seconds = len(tokens) / 50
        tar.add(f"u{number}", tokens, duration_s=seconds, sample_rate=16_000, metadata=None)
        report.ok(f"u{number}", len(tokens) / 50, tokens)
    tar.close()
    report.write(folder / "reports/a.parquet")
    return folder


def small_config(codebook_size: int, **changes) -> LMConfig:
    """A shape that trains in seconds on one core."""
    shape = {"width": 48, "layers": 2, "heads": 2, "feed_forward": 96, "window": 64}
    return LMConfig(codebook_size=codebook_size, **shape | changes)


def train(model: SpeechLM, utterances: list[np.ndarray], steps: int, rate: float = 3e-3) -> None:
    """Some steps of plain AdamW, 16 utterances each."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    random = np.random.default_rng(0)
    model.train()
    for _ in range(steps):
        batch = [utterances[i] for i in random.choice(len(utterances), 16)]
        tokens, utterance = pad_rows(batch, model.config.chunk, model.config.start)
        wanted = targets(tokens, utterance, model.config.chunk)
        loss = token_losses(model(tokens, utterance), wanted).sum() / (wanted >= 0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
