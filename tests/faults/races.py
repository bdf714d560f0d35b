"""Two jobs on one OUTPUT: different ones cannot both have it, and equal ones share it."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING

from stores import S3, LocalStore, s3_server

from faults import Result
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder

if TYPE_CHECKING:  # processes that race start from this module, and World imports PyTorch
    from faults.checks import World

PAIRS = 200
WON, LOST = "won", "lost"


def run(folder: Path, pairs: int = PAIRS, s3: S3 | None = None) -> Iterator[Result]:
    """A result for claims on a local disk and one for S3.

    folder: to write in. s3: a server; default: one of its own.
    """
    local = folder / "claims"
    local.mkdir()
    result = _race("two jobs claim one OUTPUT, local", str(local), pairs)
    result.problems += [f"left over: {path}" for path in local.rglob(".partial/*")]
    yield result
    with nullcontext(s3) if s3 else s3_server(folder / "s3-claims.log") as s3:
        result = _race("two jobs claim one OUTPUT, S3", f"s3://{s3.bucket}/claims", pairs, s3.env)
        if len(s3.listing("claims/")) != pairs:
            result.problems.append("a claim is missing or left over")
        yield result


def together(world: "World") -> Iterator[Result]:
    """A result for one command that is started twice, such as by a scheduler that was impatient."""
    store = LocalStore(world.folder / "together")
    flags = world.flags(world.source, store.url)
    with world.command(*flags) as one, world.command(*flags) as other:
        runs = [one.end(), other.end()]
    result = Result("one command started twice at once")
    if runs[0].status:
        result.problems.append(f"the first ended with {runs[0].status}")
    yield world.check(result, store, runs)


def _race(fault: str, place: str, pairs: int, env: dict | None = None) -> Result:
    """Two processes claim OUTPUT after OUTPUT, each at the same instant."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    racers = [
        context.Process(target=_racer, args=((name, place, pairs, env or {}), barrier, answers))
        for name in ("a", "b")
    ]
    for racer in racers:
        racer.start()
    found = dict(answers.get(timeout=240) for _ in racers)
    for racer in racers:
        racer.join(30)
    result = Result(fault, times=pairs, samples=2 * pairs)
    both, none, other = 0, 0, 0
    for a, b in zip(found["a"], found["b"]):
        both += (a, b) == (WON, WON)
        none += (a, b) == (LOST, LOST)
        other += not {a, b} <= {WON, LOST}
        result.rows += (a, b) in ((WON, LOST), (LOST, WON))
    for count, what in ((both, "both won"), (none, "neither won"), (other, "another error")):
        if count:
            result.problems.append(f"{what}: {count} of {pairs} pairs")
    return result


def _racer(what: tuple[str, str, int, dict], barrier: Barrier, answers: Queue) -> None:
    name, place, pairs, env = what
    os.environ.update(env)
    outcomes = []
    for number in range(pairs):
        folder = Folder(f"{place}/{number}")
        barrier.wait(60)
        try:
            folder.claim_run("run.json", {"job": name})
            outcomes.append(WON)
        except UsageError as error:
            outcomes.append(LOST if "other job" in error.problem else str(error))
    answers.put((name, outcomes))
