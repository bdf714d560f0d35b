"""Audio shards → a k-means tokenizer whose codes are the means of all frames, not of a sample.

FAISS clusters a sample for a start. Each pass then assigns every frame of every shard to its
nearest code and moves each code to the mean of its frames: Lloyd's algorithm, over as many machines
as there are. After each pass the codes are in OUTPUT/training, and a run that was killed goes on
from there.
"""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.cluster.connect import connect
from pipeline.cluster.encoders import start_encoders
from pipeline.settings import (
    AllFramesSettings,
    EncoderSettings,
    KmeansSettings,
    TokenizeSettings,
)
from pipeline.shards.inputs import Shard
from pipeline.training.lloyd.chunk_task import FeatureSource
from pipeline.training.lloyd.feature_cache import FeatureCache
from pipeline.training.lloyd.passes import Passes
from pipeline.training.lloyd.state import LloydState
from pipeline.training.train_kmeans import publish_tokenizer, start_from_sample
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles


def train_on_all_frames(
    shards: list[Shard],
    output: Folder,
    *,
    files: TokenizerFiles,
    settings: KmeansSettings,
    all_frames: AllFramesSettings,
    encoding: TokenizeSettings,
    encoder_settings: EncoderSettings,
) -> dict:
    """Make the passes that are missing, write the tokenizer to `output`; returns what was done.

    files: an encoder without a codebook; the codebook is added to it. The same input and settings
    give the same bytes on the same kind of machine, whatever the number of workers and kills.
    Raises UsageError as train_tokenizer does, and for an output that holds another run.
    """
    record = {
        "encoder": files.fingerprint,
        "kmeans": asdict(settings),
        "passes": all_frames.passes,
        "encoding": encoding.to_dict(),
        "shards": [[shard.name, shard.size, shard.version] for shard in shards],
    }
    output.claim_run("training/run.json", _short(record))
    connect()
    state = LloydState.load(output)
    if state is None:
        done = start_from_sample(
            shards,
            files=files,
            settings=settings,
            encoding=encoding,
            encoder_settings=encoder_settings,
        )
        if done["failed"]:
            return done
        state = LloydState({name: files.weights[name].numpy() for name in _made(files)})
        state.save(output)
    files.weights.update({name: torch.from_numpy(value) for name, value in state.tensors.items()})
    if not state.done(all_frames.passes):
        digest = hashlib.sha256(json.dumps(record).encode()).hexdigest()
        cache = FeatureCache(
            folder=Path(all_frames.cache_folder or tempfile.gettempdir())
            / f"wavmill-{digest[:16]}",
            dimensions=state.codes.shape[1],
            most_bytes=int(all_frames.cache_gb * 1e9),
        )
        pool = start_encoders(_features_only(files), encoder_settings, encoding.precision)
        if encoding.batch_seconds is None and state.batch_seconds is None:
            state.batch_seconds = pool.find_batch_seconds(encoding.window_seconds)
            state.save(output)
        source = FeatureSource(
            windowing=encoding.windowing(files),
            limits=encoding.batch_limits(state.batch_seconds),
            max_duration=encoding.max_duration,
            cache=cache,
        )
        passes = Passes(shards, settings.metric, source=source, pool=pool)
        while not state.done(all_frames.passes):
            failed = passes.make(state, all_frames.passes)
            if failed:
                return {"frames": 0, "rejected": {}, "failed": failed}
            state.save(output)
        passes.close()
    files.weights["codebook.codes"] = torch.from_numpy(state.codes)
    last = state.log[-1]
    files.made_by |= {"frames": last["frames"], "passes": len(state.log)}
    publish_tokenizer(files, output)
    return {
        "frames": last["frames"],
        "objective": last["objective"],
        "rejected": last["rejected"],
        "failed": {},
        "fingerprint": files.fingerprint,
    }


def _short(record: dict) -> dict:
    """The record with the list of shards as their number and a digest."""
    digest = hashlib.sha256(json.dumps(record["shards"]).encode()).hexdigest()
    return {**record, "shards": {"number": len(record["shards"]), "sha256": digest}}


def _made(files: TokenizerFiles) -> list[str]:
    """Names of the tensors that the sample gave."""
    return [name for name in files.weights if name == "center" or name.startswith("codebook.")]


def _features_only(files: TokenizerFiles) -> TokenizerFiles:
    """The same without a codebook: encoders need none to give features."""
    weights = {k: v for k, v in files.weights.items() if not k.startswith("codebook.")}
    return TokenizerFiles(files.encoder, files.metric, weights)
