"""The driver's loop over shards: bounded work in flight, progress, and shards that are given up."""

from collections.abc import Callable, Iterator

import ray
from ray.actor import ActorHandle
from ray.remote_function import RemoteFunction

from pipeline.cluster.progress import ProgressBoard, ProgressLine
from pipeline.shards.inputs import Shard, total_size

# A lost worker, a store that answers late: a shard is tried this many times more.
RETRIES = 3


def run_shards(
    name: str,
    shards: list[Shard],
    at_once: int,
    num_cpus: float,
    function: RemoteFunction,
    arguments: Callable[[Shard, int, int, ActorHandle], tuple],
) -> Iterator[tuple[Shard, object, str | None]]:
    """Run a task for each shard. Yields (shard, result, None), or (shard, None, why) if given up.

    at_once: tasks in flight. num_cpus: what Ray sets aside for one. function: the task's.
    arguments: (shard, its number, shards not yet finished, progress board) → its arguments.
    """
    board = ProgressBoard.remote()
    line = ProgressLine(name, len(shards), total_bytes=total_size(shards), board=board)
    task = function.options(
        num_cpus=num_cpus,
        max_retries=RETRIES,
        retry_exceptions=True,
        scheduling_strategy="SPREAD",
    )
    waiting = list(enumerate(shards))[::-1]
    running: dict[ray.ObjectRef, Shard] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                left = len(waiting) + len(running)
                number, shard = waiting.pop()
                running[task.remote(*arguments(shard, number, left, board))] = shard
            done, _ = ray.wait(list(running), timeout=0.5)
            for ref in done:
                shard = running.pop(ref)
                try:
                    result, why = ray.get(ref), None
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    text = str(cause).strip().splitlines() or ["no message"]
                    result, why = None, f"{type(cause).__name__}: {text[-1]}"
                line.shard_ended(ok=why is None)
                yield shard, result, why
            line.refresh()
    finally:
        line.close()
