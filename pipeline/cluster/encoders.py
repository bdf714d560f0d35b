"""Encoder actors: each holds the tokenizer on one GPU, or on a few CPU cores, and encodes batches.

A batch is a list of windows of one shard's utterances. Every encoder gives the same tokens for it,
so a shard's batches may go to all of them, and Ray may restart an encoder and send a batch again.
"""

import sys
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from pipeline.cluster.code import fingerprint
from pipeline.cluster.dispatch import Dispatcher
from pipeline.cluster.encoder_actor import EncoderActor
from pipeline.cluster.progress import say_precision
from pipeline.settings import EncoderSettings
from tokenizer.errors import UsageError
from tokenizer.storage.tokenizer_files import TokenizerFiles

# A batch whose encoder dies this many times more (out of memory, say) fails its shard.
BATCH_RETRIES = 3
# Seconds between messages that encoders are still waiting for room on the cluster.
WAIT_SECONDS = 30


@dataclass(frozen=True)
class EncoderPool:
    """Running encoders. weights: their tokenizer in Ray's store, for an encoder that restarts."""

    actors: list[ActorHandle]
    device: str
    weights: ray.ObjectRef

    @property
    def shards_at_once(self) -> int:
        """Shard tasks that keep the encoders busy: while one starts or commits, another reads."""
        return 2 * len(self.actors)

    @property
    def cpus_per_shard(self) -> float:
        """CPUs that Ray reserves for a shard task.

        Beside a GPU decoding takes about a core. Beside encoders on CPUs, which have all the cores,
        it takes next to nothing.
        """
        return 1 if self.device == "cuda" else 0

    def dispatcher(self, method: str, *, shard_number: int, shards_left: int) -> Dispatcher:
        """What one shard task sends its batches with. method: "encode" or "features".

        An encoder has about two batches to do: with more shards than encoders a task keeps two in
        flight; with fewer, one task feeds several encoders.
        """
        limit = max(2, -(-2 * len(self.actors) // shards_left))
        return Dispatcher(self.actors, method, limit=limit, first=shard_number)


def start_encoders(files: TokenizerFiles, settings: EncoderSettings, precision: str) -> EncoderPool:
    """Start the encoder actors and wait until each has loaded.

    precision: "fp32" or "bf16". Raises UsageError for a device that the cluster lacks.
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
    say_precision(precision, device)
    options: dict[str, Any]
    threads: int | None
    if device == "cuda":
        options, threads, count = {"num_gpus": 1, "num_cpus": 1}, None, settings.encoders or gpus
    else:
        cores = [int(node.get("CPU", 0)) for node in nodes]
        threads = max(1, min(settings.cpus_per_encoder, max(cores)))
        # All cores of an encoder are on one node: cores left over on a node stay idle.
        count = settings.encoders or max(1, sum(node // threads for node in cores))
        # More encoders than cores are allowed, as on a laptop that tries four: they share.
        options = {"num_cpus": min(threads, sum(cores) / count)}
        # OpenMP reads it once, when torch is imported: an encoder must not start a thread per core.
        options["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    actor: Any = ray.remote(**options, max_restarts=-1, max_task_retries=BATCH_RETRIES)(
        EncoderActor
    )
    weights = ray.put(files)
    # The reference travels inside bytes: the weights stay in the store for the whole job, and a
    # restarted encoder finds them there. As a plain argument, Ray warns at every start that the
    # object may be lost.
    reference = ray.cloudpickle.dumps(weights)
    actors = [
        actor.remote(
            reference, code=fingerprint(), device=device, precision=precision, threads=threads
        )
        for _ in range(count)
    ]
    waiting = [each.ready.remote() for each in actors]
    while waiting:
        started, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=WAIT_SECONDS)
        ray.get(started)
        if waiting:
            print(f"waiting for {len(waiting)} of {count} encoders to start", file=sys.stderr)
    return EncoderPool(actors, device, weights)
