"""Audio shards → a tokenizer folder, its codebook plain k-means over one WavLM layer."""

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.cluster import connect
from pipeline.dispatch import Batching
from pipeline.encoders import EncoderSettings, start_encoders
from pipeline.errors import UsageError
from pipeline.inputs import Shard
from pipeline.kmeans import train_kmeans
from pipeline.run_shards import run_shards
from pipeline.sample_features import sample_features_task
from pipeline.storage import Folder
from tokenizer.tokenizer import TokenizerFiles
from tokenizer.windows import Windowing


@dataclass(frozen=True)
class KmeansSettings:
    """How the codebook is trained. max_frames: over all shards, evenly."""

    codebook_size: int
    metric: str
    max_frames: int
    iterations: int
    seed: int


def train_tokenizer(
    shards: list[Shard],
    output: Folder,
    files: TokenizerFiles,
    settings: KmeansSettings,
    windowing: Windowing,
    batching: Batching,
    encoder_settings: EncoderSettings,
) -> dict:
    """Sample features, cluster them, write the tokenizer to `output`. Returns what was done.

    files: an encoder without a codebook yet; the codebook is added to it. Raises UsageError when
    there are fewer frames than codes.
    """
    connect()
    pool = start_encoders(files, encoder_settings)
    per_shard = -(-settings.max_frames // len(shards))

    def arguments(shard, number, left, board):
        common = (per_shard, settings.seed, windowing, batching)
        return (shard, *common, pool.actors, pool.batches_in_flight(left), number, board)

    features: dict[str, np.ndarray] = {}
    rejected, failed = Counter(), {}
    runs = run_shards(
        "features",
        shards,
        pool.shards_at_once,
        pool.cpus_per_shard,
        sample_features_task,
        arguments,
    )
    for shard, result, why in runs:
        if why:
            failed[shard.name] = why
            continue
        if result[0] is not None:
            features[shard.name] = result[0]
        rejected += result[1]
    # In the order of names, not in that of finishing: the same frames train the same codebook.
    parts = [features[name] for name in sorted(features)]
    frames = sum(map(len, parts))
    if failed:
        return {"frames": frames, "rejected": dict(rejected), "failed": failed}
    if frames < settings.codebook_size:
        raise UsageError(
            "--codebook-size",
            settings.codebook_size,
            f"--input has {frames} usable frames, of 20 ms each",
            "ask for fewer codes or give more audio",
        )
    if frames < 39 * settings.codebook_size:
        print(
            f"warning: {frames} frames are few for {settings.codebook_size} codes; "
            f"FAISS advises {39 * settings.codebook_size}",
            file=sys.stderr,
        )
    matrix = np.concatenate(parts)
    del parts, features
    codes, objective = train_kmeans(
        matrix, settings.codebook_size, settings.metric, settings.seed, settings.iterations
    )
    files.weights["codebook.codes"] = torch.from_numpy(codes)
    files.made_by["frames"] = frames
    with tempfile.TemporaryDirectory() as scratch:
        files.save(Path(scratch))
        # The configuration last: a folder without one is no tokenizer.
        for name in ("model.safetensors", "config.json"):
            output.publish(Path(scratch) / name, name)
    output.sweep()
    return {
        "frames": frames,
        "objective": objective,
        "rejected": dict(rejected),
        "failed": {},
        "fingerprint": files.fingerprint,
    }
