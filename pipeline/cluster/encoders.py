"""Encoder actors: each holds the tokenizer on one GPU, or on a few CPU cores, and encodes batches.

A batch is a list of windows of one shard's utterances. Any encoder gives the same tokens for it,
so a shard's windows may go to all of them, and Ray may restart an encoder and send a batch again.
"""

import sys
from dataclasses import dataclass

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from pipeline.settings import EncoderSettings
from tokenizer.errors import UsageError
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

# A batch that takes its encoder down this often (too large for its memory, say) fails its shard.
BATCH_RETRIES = 3
# How often a person is told that the cluster has no room yet.
WAIT_SECONDS = 30


class _Encoder:
    def __init__(self, weights: bytes, device: str, precision: str, threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.tokenizer = Tokenizer(ray.get(ray.cloudpickle.loads(weights)), device, precision)

    def ready(self) -> bool:
        return True

    def encode(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        return self.tokenizer.encode_windows(windows)

    def features(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        return self.tokenizer.features(windows)


@dataclass(frozen=True)
class EncoderPool:
    """Running encoders. weights: their tokenizer in Ray's store, to restart one from."""

    actors: list[ActorHandle]
    device: str
    weights: ray.ObjectRef

    @property
    def shards_at_once(self) -> int:
        """Shard tasks that keep the encoders busy: while one starts or commits, another reads."""
        return 2 * len(self.actors)

    @property
    def cpus_per_shard(self) -> float:
        """Decoding takes a core's worth beside a GPU. Beside encoders on CPUs, which have all the
        cores, it takes next to nothing.
        """
        return 1 if self.device == "cuda" else 0

    def batches_in_flight(self, shards_left: int) -> int:
        """How many batches one shard task sends ahead, so that an encoder has about two.

        With more shards than encoders that is two; with fewer, one task feeds several encoders.
        """
        return max(2, -(-2 * len(self.actors) // shards_left))


def start_encoders(files: TokenizerFiles, settings: EncoderSettings) -> EncoderPool:
    """Start the encoder actors and wait until each has loaded.

    Raises UsageError for a device that the cluster lacks.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    device = settings.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and not gpus and not settings.encoders:
        raise UsageError(
            "the Ray cluster has no GPU", "add one, or use the CPU", value="cuda", argument="device"
        )
    if device == "cuda":
        options, threads, count = {"num_gpus": 1, "num_cpus": 1}, None, settings.encoders or gpus
    else:
        cores = [int(node.get("CPU", 0)) for node in nodes]
        threads = max(1, min(settings.cpus_per_encoder, max(cores)))
        # An encoder's cores are of one node: what is left over on each is left idle.
        count = settings.encoders or max(1, sum(own // threads for own in cores))
        # More encoders than cores are allowed, as on a laptop that tries four: they share.
        options = {"num_cpus": min(threads, sum(cores) / count)}
        # OpenMP reads it once, when torch is imported: an encoder must not start a thread per core.
        options["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    actor = ray.remote(**options, max_restarts=-1, max_task_retries=BATCH_RETRIES)(_Encoder)
    weights = ray.put(files)
    # A reference hidden in bytes: the weights stay in the store for the whole job, and a restarted
    # encoder finds them there. As an argument, Ray warns at every start that it might not.
    reference = ray.cloudpickle.dumps(weights)
    actors = [actor.remote(reference, device, settings.precision, threads) for _ in range(count)]
    waiting = [each.ready.remote() for each in actors]
    while waiting:
        started, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=WAIT_SECONDS)
        ray.get(started)
        if waiting:
            print(f"waiting for {len(waiting)} of {count} encoders to start", file=sys.stderr)
    return EncoderPool(actors, device, weights)
