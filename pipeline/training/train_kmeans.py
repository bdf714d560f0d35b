"""Audio shards → a tokenizer folder, its codebook plain k-means over one WavLM layer."""

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.cluster.connect import connect
from pipeline.cluster.encoders import start_encoders
from pipeline.cluster.run_shards import run_shards
from pipeline.settings import BatchLimits, EncoderSettings, KmeansSettings
from pipeline.shards.inputs import Shard
from pipeline.training.kmeans import train_kmeans, train_whitened
from pipeline.training.sample_features import sample_features_task
from tokenizer.audio.windows import Windowing
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles

# As many tell the mean of all speech.
CENTER_FRAMES = 20_000


def train_tokenizer(
    shards: list[Shard],
    output: Folder,
    files: TokenizerFiles,
    settings: KmeansSettings,
    windowing: Windowing,
    batching: BatchLimits,
    encoder_settings: EncoderSettings,
) -> dict:
    """Sample features, cluster them, write the tokenizer to `output`. Returns what was done.

    files: an encoder without a codebook yet; the codebook is added to it. Raises UsageError when
    there are fewer frames than codes.
    """
    connect()

    def sample(max_frames: int) -> _Sample:
        return _sample(
            shards,
            max_frames,
            files=files,
            seed=settings.seed,
            windowing=windowing,
            batching=batching,
            encoder_settings=encoder_settings,
        )

    if settings.center:
        sampled = sample(min(CENTER_FRAMES, settings.max_frames))
        if sampled.failed:
            return {"frames": sampled.frames, "rejected": {}, "failed": sampled.failed}
        if sampled.parts:
            files.weights["center"] = torch.from_numpy(np.concatenate(sampled.parts).mean(0))
    sampled = sample(settings.max_frames)
    frames, rejected, failed = sampled.frames, sampled.rejected, sampled.failed
    if failed:
        return {"frames": frames, "rejected": dict(rejected), "failed": failed}
    if frames < settings.codebook_size:
        raise UsageError(
            f"the input has {frames} usable frames, of 20 ms each",
            "ask for fewer codes or give more audio",
            value=settings.codebook_size,
            argument="codebook_size",
        )
    if frames < 39 * settings.codebook_size:
        print(
            f"warning: {frames} frames are few for {settings.codebook_size} codes; "
            f"FAISS advises {39 * settings.codebook_size}",
            file=sys.stderr,
        )
    matrix = np.concatenate(sampled.parts)
    sampled.parts.clear()
    how = settings.seed, settings.iterations
    if settings.whiten:
        codes, projection, objective = train_whitened(
            matrix, settings.codebook_size, settings.whiten, *how
        )
        files.weights["codebook.projection"] = torch.from_numpy(projection)
    else:
        codes, objective = train_kmeans(matrix, settings.codebook_size, settings.metric, *how)
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


@dataclass
class _Sample:
    """Features of each shard, and what of the input gave none."""

    parts: list[np.ndarray]
    rejected: Counter
    failed: dict[str, str]

    @property
    def frames(self) -> int:
        return sum(map(len, self.parts))


def _sample(
    shards: list[Shard],
    max_frames: int,
    files: TokenizerFiles,
    seed: int,
    windowing: Windowing,
    batching: BatchLimits,
    encoder_settings: EncoderSettings,
) -> _Sample:
    """About max_frames features, evenly from all shards."""
    pool = start_encoders(files, encoder_settings)
    per_shard = -(-max_frames // len(shards))

    def arguments(shard, number, left, board):
        common = (per_shard, seed, windowing, batching)
        return (shard, *common, pool.actors, pool.batches_in_flight(left), number, board)

    features: dict[str, np.ndarray] = {}
    rejected, failed = Counter(), {}
    runs = run_shards(
        "features",
        shards,
        at_once=pool.shards_at_once,
        num_cpus=pool.cpus_per_shard,
        function=sample_features_task,
        arguments=arguments,
    )
    for shard, result, why in runs:
        if why:
            failed[shard.name] = why
            continue
        if result[0] is not None:
            features[shard.name] = result[0]
        rejected += result[1]
    # In the order of names, not in that of finishing: the same frames train the same codebook.
    return _Sample([features[name] for name in sorted(features)], rejected, failed)
