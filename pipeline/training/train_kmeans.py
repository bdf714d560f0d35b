"""Audio shards → a tokenizer folder whose codebook is plain k-means over one WavLM layer."""

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.cluster.connect import connect
from pipeline.cluster.encoders import start_encoders
from pipeline.cluster.run_shards import run_shards
from pipeline.settings import (
    LEAST_FRAMES_PER_CODE,
    EncoderSettings,
    KmeansSettings,
    TokenizeSettings,
)
from pipeline.shards.inputs import Shard
from pipeline.training.kmeans import train_kmeans, train_whitened
from pipeline.training.sample_features import draw_shards, sample_features
from tokenizer.audio.windows import Windowing
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles

# This many frames give a good estimate of the mean of all speech.
CENTER_FRAMES = 20_000


def train_tokenizer(
    shards: list[Shard],
    output: Folder,
    *,
    files: TokenizerFiles,
    settings: KmeansSettings,
    encoding: TokenizeSettings,
    encoder_settings: EncoderSettings,
) -> dict:
    """Sample features, cluster them, write the tokenizer to `output`. Returns what was done.

    files: an encoder without a codebook; the codebook is added to it. encoding: how audio is cut,
    batched and encoded. Raises UsageError when there are fewer frames than codes, or windows are
    too short.
    """
    done = start_from_sample(
        shards,
        files=files,
        settings=settings,
        encoding=encoding,
        encoder_settings=encoder_settings,
    )
    if done["failed"]:
        return done
    files.made_by["frames"] = done["frames"]
    publish_tokenizer(files, output)
    return {**done, "fingerprint": files.fingerprint}


def publish_tokenizer(files: TokenizerFiles, output: Folder) -> None:
    """Write a finished tokenizer to `output`."""
    with scratch_folder() as scratch:
        files.save(scratch)
        output.publish_folder(scratch)
    output.sweep()


def start_from_sample(
    shards: list[Shard],
    *,
    files: TokenizerFiles,
    settings: KmeansSettings,
    encoding: TokenizeSettings,
    encoder_settings: EncoderSettings,
) -> dict:
    """Sample features and cluster them; the codebook is added to `files`.

    Returns frames, rejected, failed and, unless a shard failed, the objective. Raises UsageError as
    train_tokenizer does.
    """
    source = _Source(
        shards,
        files,
        windowing=encoding.windowing(files),
        encoding=encoding,
        encoder_settings=encoder_settings,
    )
    connect()
    if settings.center:
        sample = source.sample(min(CENTER_FRAMES, settings.max_frames), settings.seed)
        if sample.failed:
            return {"frames": sample.frames, "rejected": {}, "failed": sample.failed}
        if sample.parts:
            files.weights["center"] = torch.from_numpy(np.concatenate(sample.parts).mean(0))
    sample = source.sample(settings.max_frames, settings.seed)
    frames, done = sample.frames, {"rejected": dict(sample.rejected), "failed": sample.failed}
    if sample.failed:
        return {"frames": frames, **done}
    if frames < settings.codebook_size:
        raise UsageError(
            f"the input has {frames} usable frames, of 20 ms each",
            "ask for fewer codes or give more audio",
            value=settings.codebook_size,
            argument="codebook_size",
        )
    if frames < LEAST_FRAMES_PER_CODE * settings.codebook_size:
        print(
            f"warning: {frames} frames are few for {settings.codebook_size} codes; "
            f"FAISS advises {LEAST_FRAMES_PER_CODE * settings.codebook_size}",
            file=sys.stderr,
        )
    matrix = np.concatenate(sample.parts)
    sample.parts.clear()
    return {"frames": frames, "objective": _add_codebook(files, matrix, settings), **done}


def _add_codebook(files: TokenizerFiles, matrix: np.ndarray, settings: KmeansSettings) -> float:
    """Cluster (n, D) features; returns k-means' objective, see train_kmeans."""
    size, seed, iterations = settings.codebook_size, settings.seed, settings.iterations
    if settings.whiten:
        codes, projection, objective = train_whitened(
            matrix, size, settings.whiten, seed=seed, iterations=iterations
        )
        files.weights["codebook.projection"] = torch.from_numpy(projection)
    else:
        codes, objective = train_kmeans(
            matrix, size, settings.metric, seed=seed, iterations=iterations
        )
    files.weights["codebook.codes"] = torch.from_numpy(codes)
    return objective


@dataclass
class _SampledFeatures:
    """Features of each shard, and which samples and shards gave none."""

    parts: list[np.ndarray]
    rejected: Counter[str]
    failed: dict[str, str]

    @property
    def frames(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True)
class _Source:
    """Where features come from: shards, and how they are encoded."""

    shards: list[Shard]
    files: TokenizerFiles
    windowing: Windowing
    encoding: TokenizeSettings
    encoder_settings: EncoderSettings

    def sample(self, max_frames: int, seed: int) -> _SampledFeatures:
        """About max_frames features, evenly from the shards that the seed draws.

        Where those hold under half of that, from all shards.
        """
        drawn = draw_shards(self.shards, max_frames, seed)
        sample = self._sample(drawn, max_frames, seed=seed)
        few = 2 * sample.frames < max_frames and not sample.failed
        if few and len(drawn) < len(self.shards):
            print(f"they hold {sample.frames:,} frames; all shards are read", file=sys.stderr)
            sample = self._sample(self.shards, max_frames, seed=seed)
        return sample

    def _sample(self, shards: list[Shard], max_frames: int, *, seed: int) -> _SampledFeatures:
        print(
            f"features of {len(shards):,} of {len(self.shards):,} shards "
            f"for a sample of {max_frames:,} frames",
            file=sys.stderr,
        )
        pool = start_encoders(self.files, self.encoder_settings, self.encoding.precision)
        found = None
        if self.encoding.batch_seconds is None:
            found = pool.find_batch_seconds(self.encoding.window_seconds)
        per_shard = -(-max_frames // len(shards))

        def arguments(*, number: int, **_: Any) -> dict[str, Any]:
            return {
                "max_frames": per_shard,
                "seed": seed,
                "windowing": self.windowing,
                "limits": self.encoding.batch_limits(found),
                "max_duration": self.encoding.max_duration,
                "dispatcher": pool.dispatcher("features", number),
            }

        rejected: Counter[str] = Counter()
        found_in: dict[str, np.ndarray] = {}

        def take(shard: Shard, result: tuple[np.ndarray | None, Counter[str]]) -> None:
            features, reasons = result
            rejected.update(reasons)
            if features is not None:
                found_in[shard.name] = features

        failed = run_shards(
            "features",
            shards,
            room=pool,
            function=sample_features,
            arguments=arguments,
            take=take,
        )
        # Sorted by name, not in the order of finishing: the same frames train the same codebook.
        parts = [features for _, features in sorted(found_in.items())]
        return _SampledFeatures(parts, rejected, failed)
