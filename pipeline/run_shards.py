"""The driver's loop over shards: bounded work in flight, progress, and shards that are given up."""

from collections.abc import Callable, Iterator

import ray

from pipeline.encoders import EncoderPool
from pipeline.progress import ProgressBoard, ProgressLine
from pipeline.storage import Shard, total_size

# A lost worker, a store that answers late: a shard is tried this many times more.
RETRIES = 3


def in_flight_per_task(encoders: int, shards: int) -> int:
    """Batches one shard task keeps in flight, so that there are about two for each encoder.

    With more shards than encoders every task keeps two; with fewer, a task feeds several encoders.
    """
    return max(2, -(-2 * encoders // max(shards, 1)))


def run_shards(
    name: str,
    shards: list[Shard],
    pool: EncoderPool,
    function,
    arguments: Callable[[Shard, int, int, object], tuple],
) -> Iterator[tuple[Shard, object, str | None]]:
    """Run a task for each shard. Yields (shard, result, None), or (shard, None, why) if given up.

    function: a Ray remote function. arguments: (shard, number of the shard, batches it may have in
    flight, progress board) → the function's arguments.
    """
    encoders = len(pool.actors)
    board = ProgressBoard.remote()
    line = ProgressLine(name, len(shards), total_size(shards), board)
    # Decoding takes a core's worth beside a GPU, and next to nothing beside an encoder on a CPU,
    # whose cores are all given to encoders.
    task = function.options(
        num_cpus=1 if pool.device == "cuda" else 0,
        max_retries=RETRIES,
        retry_exceptions=True,
        scheduling_strategy="SPREAD",
    )
    waiting = list(enumerate(shards))[::-1]
    running: dict[ray.ObjectRef, Shard] = {}
    try:
        while waiting or running:
            while waiting and len(running) < 2 * encoders:
                left = len(waiting) + len(running)
                number, shard = waiting.pop()
                batches = in_flight_per_task(encoders, left)
                running[task.remote(*arguments(shard, number, batches, board))] = shard
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
