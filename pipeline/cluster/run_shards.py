"""The driver's loop over shards: bounded work in flight, progress, and giving up on a shard."""

import functools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as NodeAffinity

from pipeline.cluster.code import OtherCode, check_code, fingerprint
from pipeline.cluster.progress import ProgressBoard, ShardLine
from pipeline.shards.inputs import Shard, total_size
from tokenizer.errors import UsageError

# How often a shard is tried again: by Ray after a lost worker, and here after an error, such as of
# a store that answers late.
RETRIES = 3


@dataclass(frozen=True)
class TaskFailed:
    """What a task gives in place of its result after an error. other_code: it is OtherCode."""

    problem: str
    other_code: bool


class TaskLost(TaskFailed):
    """A task whose worker died, again and again."""


def run_shards(
    name: str,
    shards: list[Shard],
    *,
    at_once: int,
    num_cpus: float,
    function: Callable,
    arguments: Callable[..., dict[str, Any]],
    num_gpus: float = 0,
    node_of: Callable[[int], str | None] = lambda number: None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run a Ray task for each shard. Returns ({shard name: result}, {failed shard's name: why}).

    at_once: tasks in flight. num_cpus, num_gpus: what Ray reserves for one task. function: called
    in the task as function(shard, board, **arguments), where board is the ProgressBoard's actor and
    arguments(shard=, number=, shards_left=) gives the rest; number counts shards from 0, and
    shards_left are those not finished yet. node_of: the node, by its ID, that a task prefers.
    """
    board: Any = ray.remote(num_cpus=0, max_restarts=-1)(ProgressBoard).remote()
    line = ShardLine(name, len(shards), total_bytes=total_size(shards), board=board)
    task = ray.remote(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_retries=RETRIES,
        scheduling_strategy="SPREAD",
    )(_guarded(function))
    waiting = list(enumerate(shards))[::-1]
    running: dict[ray.ObjectRef, tuple[int, Shard]] = {}
    tries = dict.fromkeys(range(len(shards)), 1 + RETRIES)
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                left = len(waiting) + len(running)
                number, shard = waiting.pop()
                more = arguments(shard=shard, number=number, shards_left=left)
                node = node_of(number)
                here = task
                if node:
                    here = task.options(scheduling_strategy=NodeAffinity(node, soft=True))
                running[here.remote(shard, board, **more)] = number, shard
            done, _ = ray.wait(list(running), timeout=0.5)
            if done:  # and all others that have ended: one at a time, a list of all is sent for it
                done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            for ref in done:
                number, shard = running.pop(ref)
                result = _result(ref)
                tries[number] -= 1
                if not isinstance(result, TaskFailed):
                    results[shard.name] = result
                elif result.other_code:
                    raise UsageError(
                        f"a node of the cluster cannot be used: {result.problem}",
                        "give all nodes the code that the driver has",
                    )
                elif tries[number] and not isinstance(result, TaskLost):
                    waiting.insert(0, (number, shard))  # last, as a store may need time
                    continue
                else:
                    failed[shard.name] = result.problem
                line.shard_ended(ok=shard.name not in failed)
            line.refresh()
    finally:
        line.close()
    return results, failed


def _result(ref: ray.ObjectRef) -> Any:
    """A task's result, or TaskFailed."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        return TaskLost(_last_line(cause), isinstance(cause, ModuleNotFoundError))


def _guarded(function: Callable) -> Callable:
    """A task that gives TaskFailed after an error, of which Ray would print the whole stack."""
    expected = fingerprint()

    @functools.wraps(function)
    def guarded(*values: Any, **more: Any) -> Any:
        try:
            check_code(expected)
            return function(*values, **more)
        except Exception as error:  # whatever it is, the shard is tried again
            traceback.print_exc()  # into the worker's log
            return TaskFailed(_last_line(error), isinstance(error, OtherCode))

    return guarded


def _last_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {text[-1]}"
