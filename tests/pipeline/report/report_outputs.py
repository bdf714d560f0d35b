"""What a report is made of, without a tokenize job: an OUTPUT with its audio, a model, figures."""

import io
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import webdataset as wds
from conftest import SPEECH

from lm.config import LMConfig
from lm.files import save_lm
from lm.model import SpeechLM
from pipeline.shards.report import ShardReport
from tokenizer import Tokenizer
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.token_shards import TokenShardWriter
from tokenizer.storage.tokenizer_files import TokenizerFiles

TOKENIZER = "wavlm-tiny-d1024"
SHARD = "speech-000000"
LOG = [
    {"step": step, "bits_per_token": 10 - step / 20, "learning_rate": 1e-3, "hours": step / 1000}
    for step in range(1, 60)
]
FIGURES = {
    "bits_per_token": 6.5,
    "utmos": {"value": 3.25, "interval": [3.1, 3.4]},
    "pairs": {
        "salmon": {
            "speaker_consistency": {
                "pairs": 200,
                "accuracy_per_token": 0.74,
                "interval_per_token": [0.675, 0.796],
            }
        }
    },
    "published": {"WavSLM": {"speaker_consistency": 0.8125}},
}


def tokenized_speech(folder: Path, count: int) -> dict[str, np.ndarray]:
    """An OUTPUT of the first utterances of tests/speech and one reject; {key: tokens}."""
    tokenizer = Tokenizer.from_pretrained(TOKENIZER)
    for name in ("shards", "reports"):
        (folder / name).mkdir(parents=True)
    record = {
        "tokenizer": TokenizerFiles.read(PRETRAINED / TOKENIZER).fingerprint,
        "tokenizer_source": TOKENIZER,
        "inputs": SPEECH.as_uri(),
        "codebook_size": 1024,
        "tokens_per_second": 50.0,
    }
    (folder / "run.json").write_text(json.dumps(record))
    writer = TokenShardWriter(folder / f"shards/{SHARD}.tar", shard=SHARD, codebook_size=1024)
    report, made = ShardReport(SHARD, 1024), {}
    samples = wds.WebDataset(str(SPEECH / f"{SHARD}.tar"), shardshuffle=False)
    for sample in itertools.islice(samples, count):
        key = sample["__key__"]
        wave, _ = soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")
        tokens = made[key] = tokenizer.encode(wave, sample_rate=16_000)
        seconds = len(wave) / 16_000
        writer.add(key, tokens, duration_s=seconds, sample_rate=16_000, metadata=None)
        report.ok(key, seconds, tokens)
    report.reject("broken <b>", "truncated_audio")
    writer.close()
    report.write(folder / f"reports/{SHARD}.parquet")
    run = {"seconds": 2.0, "audio_hours": 0.01, "times_real_time": 18.0, "encoders": 1}
    shares = {"decode": 0.2, "encode": 0.7, "storage": 0.1}
    run |= {"device": "cpu", "limited_by": "encode", "task_time": shares}
    (folder / "summary.json").write_text(json.dumps({"shards": 1, "failed": {}, "this_run": run}))
    return made


def trained_lm(folder: Path) -> Path:
    """A model/ of random weights, with the log of a training beside it."""
    files = TokenizerFiles.read(PRETRAINED / TOKENIZER)
    shape = {"width": 32, "layers": 1, "heads": 2, "feed_forward": 32, "window": 16}
    torch.manual_seed(0)
    model = SpeechLM.from_tokenizer(LMConfig(codebook_size=1024, **shape), files)
    save_lm(folder / "model", model, tokenizer=files, made_by={})
    (folder / "training").mkdir()
    lines = "".join(json.dumps(line) + "\n" for line in LOG)
    (folder / "training/log.jsonl").write_text(lines)
    return folder / "model"


def continued(folder: Path) -> Path:
    """An OUTPUT of jobs/generate.py: half a second after a second of prompt."""
    folder.mkdir()
    wave = np.sin(np.arange(24_000) / 10).astype(np.float32) / 4
    np.save(folder / "voice.tokens.npy", np.arange(25, dtype=np.uint16))
    soundfile.write(folder / "voice.joined.wav", wave, 16_000)
    soundfile.write(folder / "voice.wav", wave[16_000:], 16_000)
    return folder


def fake_utterances(folder: Path, shards: int, each: int) -> Path:
    """An OUTPUT of imported tokens: all its tars are one file, under names of their own."""
    for name in ("shards", "reports"):
        (folder / name).mkdir(parents=True)
    record = {"tokenizer": None, "codebook_size": 256, "tokens_per_second": 50.0}
    (folder / "run.json").write_text(json.dumps(record))
    summary = {"shards": shards, "this_run": {"shards": shards, "seconds": 1.5}}
    (folder / "summary.json").write_text(json.dumps(summary))
    random = np.random.default_rng(0)
    first = folder / "shards/a00000.tar"
    writer = TokenShardWriter(first, shard="a00000", codebook_size=256)
    report = ShardReport("a00000", 256)
    for number in range(each):
        tokens = (256 * random.random(random.integers(20, 80)) ** 2).astype(np.uint16)
        seconds = len(tokens) / 50
        writer.add(f"u{number}", tokens, duration_s=seconds, sample_rate=16_000, metadata=None)
        report.ok(f"u{number}", seconds, tokens)
    writer.close()
    report.write(folder / "reports/a00000.parquet")
    table = pq.read_table(folder / "reports/a00000.parquet")
    for number in range(1, shards):
        name = f"a{number:05}"
        os.link(first, folder / f"shards/{name}.tar")
        column = pa.array([name] * each)
        named = table.set_column(0, "shard", column)
        pq.write_table(named, folder / f"reports/{name}.parquet")
    return folder
