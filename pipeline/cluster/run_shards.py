"""The driver's loop over shards: bounded work in flight, progress, and giving up on a shard."""

from collections.abc import Callable
from typing import Any

import ray

from pipeline.cluster.code import with_the_drivers_code
from pipeline.cluster.progress import ProgressBoard, ShardLine
from pipeline.shards.inputs import Shard, total_size

# How often a shard is tried again, after a lost worker or a store that answers late.
RETRIES = 3


def run_shards(
    name: str,
    shards: list[Shard],
    *,
    at_once: int,
    num_cpus: float,
    function: Callable,
    arguments: Callable[..., dict[str, Any]],
    num_gpus: float = 0,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run a Ray task for each shard. Returns ({shard name: result}, {failed shard's name: why}).

    at_once: tasks in flight. num_cpus, num_gpus: what Ray reserves for one task. function: called
    in the task as function(shard, board, **arguments), where board is the ProgressBoard's actor and
    arguments(shard=, number=, shards_left=) gives the rest; number counts shards from 0, and
    shards_left are those not finished yet.
    """
    board: Any = ray.remote(num_cpus=0, max_restarts=-1)(ProgressBoard).remote()
    line = ShardLine(name, len(shards), total_bytes=total_size(shards), board=board)
    task = ray.remote(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_retries=RETRIES,
        retry_exceptions=True,
        scheduling_strategy="SPREAD",
    )(with_the_drivers_code(function))
    waiting = list(enumerate(shards))[::-1]
    running: dict[ray.ObjectRef, Shard] = {}
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                left = len(waiting) + len(running)
                number, shard = waiting.pop()
                more = arguments(shard=shard, number=number, shards_left=left)
                running[task.remote(shard, board, **more)] = shard
            done, _ = ray.wait(list(running), timeout=0.5)
            for ref in done:
                shard = running.pop(ref)
                try:
                    results[shard.name] = ray.get(ref)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    text = str(cause).strip().splitlines() or ["no message"]
                    failed[shard.name] = f"{type(cause).__name__}: {text[-1]}"
                line.shard_ended(ok=shard.name not in failed)
            line.refresh()
    finally:
        line.close()
    return results, failed
