"""The driver's loop over shards: bounded work in flight, progress, and giving up on a shard."""

import functools
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from socket import gethostname
from typing import Any, Protocol

import ray

from pipeline.cluster.code import check_code, fingerprint, unfit
from pipeline.cluster.dispatch import DoesNotFit
from pipeline.cluster.nodes import on_this_node
from pipeline.cluster.progress import ProgressBoard, ShardLine
from pipeline.shards.inputs import Shard, total_size
from tokenizer.errors import UsageError

# How often a shard is tried again: by Ray after a lost worker, and here after an error, such as of
# a store that answers late.
RETRIES = 3
# The driver goes on once one in so many running tasks has ended, or after half a second: to wait
# for each alone, with thousands that run, it would send a list of all for each.
WAITED_SHARE = 100


@dataclass(frozen=True)
class TaskFailed:
    """What a task gives in place of its result after an error.

    other_code: whether the task's process cannot run the driver's code, as problem then says.
    again: whether another try may end otherwise.
    """

    problem: str
    other_code: bool
    again: bool


class Room(Protocol):
    """How many tasks run at once and where: FixedRoom, or the EncoderPool of a run."""

    def tend(self) -> int:
        """How many tasks may run now."""

    def options(self, task: int) -> dict[str, Any]:
        """Ray's options for a task that is about to be sent."""

    def ended(self, task: int) -> None:
        """A task has ended, well or not."""

    def close(self) -> None:
        """The last task has ended."""


def run_shards(
    name: str,
    shards: list[Shard],
    *,
    room: Room,
    function: Callable,
    arguments: Callable[..., dict[str, Any]],
    take: Callable[[Shard, Any], None] | None = None,
) -> dict[str, str]:
    """Run a Ray task for each shard. Returns {name of a failed shard: why}.

    room: how many tasks run at once, where, and what Ray reserves for one; it is closed in the end,
    and what it raises ends the run. function: called in the task as function(shard, board,
    **arguments), where board is the ProgressBoard's actor and arguments(shard=, number=) gives the
    rest; number counts shards from 0. take: is given each shard's result as its task ends, of which
    nothing is kept here: a lake has more shards than results fit in memory.
    """
    board: Any = on_this_node(ProgressBoard).remote()
    line = ShardLine(name, len(shards), total_bytes=total_size(shards), board=board)
    task = ray.remote(max_retries=RETRIES)(_guarded(function))
    waiting = list(enumerate(shards))[::-1]
    running: dict[ray.ObjectRef, tuple[int, Shard]] = {}
    failures: Counter[int] = Counter()
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            at_once = room.tend()
            while waiting and len(running) < at_once:
                number, shard = waiting.pop()
                more = arguments(shard=shard, number=number)
                here = task.options(**room.options(number))
                running[here.remote(shard, board, **more)] = number, shard
            some = max(1, len(running) // WAITED_SHARE)
            done, _ = ray.wait(list(running), num_returns=some, timeout=0.5)
            if done:  # and all others that have ended: one at a time, a list of all is sent for it
                done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            for ref in done:
                number, shard = running.pop(ref)
                room.ended(number)
                result = _result(ref)
                if not isinstance(result, TaskFailed):
                    failures.pop(number, None)
                    if take:
                        take(shard, result)
                    line.shard_ended(ok=True)
                    continue
                failures[number] += 1
                if result.other_code:
                    raise UsageError(
                        f"a node of the cluster cannot be used: {result.problem}",
                        "give all nodes the code that the driver has",
                    )
                if result.again and failures[number] <= RETRIES:
                    waiting.insert(0, (number, shard))  # last, as a store may need time
                    continue
                failed[shard.name] = result.problem
                line.shard_ended(ok=False)
            line.refresh()
    finally:
        line.close()
        ray.kill(board)
        room.close()
    return failed


def _result(ref: ray.ObjectRef) -> Any:
    """A task's result, or TaskFailed."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        why = unfit(error)
        # Ray itself has run it again and again.
        return TaskFailed(why or _last_line(cause), bool(why), again=False)


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
            if why := unfit(error):
                return TaskFailed(f"{why} (on {gethostname()})", other_code=True, again=False)
            again = not isinstance(error, DoesNotFit)
            return TaskFailed(_last_line(error), other_code=False, again=again)

    return guarded


def _last_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {text[-1]}"
