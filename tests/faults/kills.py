"""kill -9 of every process of a job at random moments, and a shard that kills its worker. And of
jobs/ingest.py, which has other outputs.

A kill of a worker is mended by the job itself; after a kill of the driver or of Ray the same
command, run again, goes on.
"""

import io
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress

import pyarrow.parquet as pq
from stores import LocalStore, S3Store

from faults import Result
from faults.checks import Store, World, left_over, report_rows
from faults.runs import DEADLY, MOST_RUNS, Command, Ended, Session, command, session, write_hook

# What is killed, and what is in the title of its process. "" is the driver itself.
VICTIMS = {
    "driver": "",
    "shard task": "ray::tokenize",
    "encoder": "ray::EncoderActor",
    "encoder list": "ray::EncoderList",
    "progress board": "ray::ProgressBoard",
    "raylet": "/raylet/raylet",
}
# Without them the job cannot go on, and the same command is run again.
ENDS_THE_JOB = ("driver", "raylet")
KILLS = 3  # of one job
LATEST = 3.0  # seconds
HALVINGS = 5  # of it, until the job lives longer than its victim
INGEST_KILLS = 5
# Half of the tars hold what others hold, and a shard has one or two of their utterances.
INGEST = ("--dedup", "exact", "--shard-size-mb", "0.1", "--max-reject-rate", "1")


def run(
    world: World,
    rounds: int = 2,
    victims: tuple[str, ...] = tuple(VICTIMS),
    *,
    most: int = KILLS,
    latest: float = LATEST,
    deadly: bool = True,
    seed: int = 0,
) -> Iterator[Result]:
    """A result for each victim, in `rounds` jobs with other moments, and for a deadly shard.

    most: kills of one job. latest: seconds that a victim may live at most. seed: of the moments of
    all rounds.
    """
    for victim in victims:
        for moments in range(rounds * seed, rounds * (seed + 1)):
            yield _killed(world, victim, moments, most=most, latest=latest)
    if deadly:
        yield _deadly(world)


def _killed(world: World, victim: str, seed: int, *, most: int, latest: float) -> Result:
    """Kill a process of a job several times; moments are drawn from when workers start.

    A quick machine may be done with the job before: then another is tried, and its victim lives
    half as long at most.
    """
    chosen = random.Random(f"{victim} {seed}")
    store = LocalStore(world.folder / f"killed-{victim.replace(' ', '-')}-{seed}")
    for _ in range(HALVINGS):
        runs, kills = _runs_until_done(world, store, victim, chosen, most=most, latest=latest)
        if kills:
            break
        shutil.rmtree(store.folder)
        latest /= 2
    result = Result(f"kill -9 of the {victim}, {kills} times (seed {seed})")
    if not kills:
        result.problems.append("it was never killed")
    return world.check(result, store, runs)


def _runs_until_done(
    world: World,
    store: LocalStore,
    victim: str,
    chosen: random.Random,
    *,
    most: int,
    latest: float,
) -> tuple[list[Ended], int]:
    """The runs of one command until it is done, and how often the victim was killed in them."""
    flags = world.flags(world.source, store.url)
    runs: list[Ended] = []
    kills = 0
    while len(runs) < MOST_RUNS and not (runs and runs[-1].status == 0):
        if kills == most:
            runs.append(world.ended(*flags))
            continue
        ends, before = victim in ENDS_THE_JOB, kills
        own = victim == "raylet"  # only with its own Ray may a job lose it
        with command("tokenize", *flags) if own else world.command(*flags) as job:
            while kills < most and _kill(job, VICTIMS[victim], chosen.uniform(0, latest)):
                kills += 1
                if ends:
                    break
            died = kills > before
            runs.append(job.end(killed=ends and died, tidy=not died))
    return runs, kills


def _kill(job: Command, title: str, seconds: float) -> bool:
    """Kill the driver, or the processes with a title, some time after there are any.

    Returns False if the job has ended.
    """
    began = 0.0
    while job.process.poll() is None:
        found = [job.process.pid] if not title else list(job.processes(title))
        # What ends the job is killed once shards are read: before that there is nothing to lose.
        ends = title in (VICTIMS[victim] for victim in ENDS_THE_JOB)
        if found and (began or not ends or job.processes(VICTIMS["shard task"])):
            began = began or time.monotonic()
            if time.monotonic() - began >= seconds:
                for process in found:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                return True
        time.sleep(0.05)
    return False


def _deadly(world: World) -> Result:
    """A shard that kills its worker every time: it fails alone, and is done once it is harmless."""
    hook = world.session.hook if world.session else write_hook(world.folder / "hook")
    env = None if world.session else {"PYTHONPATH": str(hook)}
    store = LocalStore(world.folder / "deadly")
    flags = world.flags(world.source, store.url)
    result = Result("a shard that kills its worker every time")
    (hook / "armed").touch()
    with command("tokenize", *flags, env=env, session=world.session) as job:
        first = job.end(tidy=False)
    (hook / "armed").unlink()
    if first.status != 1 or f"shard {DEADLY.removesuffix('.tar')} failed" not in first.errors:
        result.problems.append(f"it ended with {first.status} and no word of the shard")
    name = DEADLY.removesuffix(".tar")
    others = [other for other in world.names if other != name]
    result.problems += left_over(store, others)
    if len({shard for shard, _ in report_rows(store)}) != len(others):
        result.problems.append("other shards are not done")
    return world.check(result, store, [first, world.ended(*flags)])


def run_ingest(world: World, *, kills: int = INGEST_KILLS, seed: int = 0) -> Iterator[Result]:
    """A result for jobs/ingest.py on the local disk and one for S3, killed several times each."""
    with nullcontext(world.session) if world.session else session(world.folder) as shared:
        whole = LocalStore(world.folder / "ingested")
        done = _ingest(world, whole, shared)
        assert done.status == 0, done.errors
        for name, store in (
            ("a local disk", LocalStore(world.folder / f"ingest-{seed}")),
            ("S3", S3Store(shared.s3, f"ingest-{seed}")),
        ):
            yield _killed_ingest(world, store, whole, shared=shared, name=name, kills=kills)


def _killed_ingest(
    world: World, store: Store, whole: Store, *, shared: Session, name: str, kills: int
) -> Result:
    """Kill it at moments drawn from its whole run, by how many files OUTPUT has."""
    files = _made(whole)
    # While samples are staged there are two files a shard, as in the end.
    moments = random.Random(store.url).choices(range(1, len(files) + 1), k=kills)
    runs = [_ingest(world, store, shared, kill_at=moment) for moment in sorted(moments)]
    killed = sum(run.killed for run in runs)
    runs.append(_ingest(world, store, shared))
    result = Result(f"ingest: kill -9 on {name}, {killed} times", len(runs), world.samples)
    result.problems = [problem for run in runs for problem in run.problems()]
    if killed < kills - 1 or runs[-1].status != 0:
        result.problems.append(f"{killed} kills, and exit status {runs[-1].status}")
    found = _made(store)
    result.rows = sum(row["kind"] == "sample" for row in _rows(store))
    result.equal = found == files
    if not result.equal:
        result.problems.append("the bytes are not those of an undisturbed run")
    left = [each for each in store.state() if each.startswith(("staging/", ".partial/"))]
    result.problems += [f"left over: {each}" for each in left]
    return result


def _ingest(world: World, store: Store, shared: Session, *, kill_at: int | None = None) -> Ended:
    """Run it, and kill it once OUTPUT has so many tars and reports."""
    flags = ("--input", world.source, "--output", store.url, *INGEST)
    with command("ingest", *flags, session=shared) as job:
        while kill_at is not None and job.process.poll() is None:
            if len(_names(store)) >= kill_at:
                job.process.kill()
                return job.end(killed=True)
            time.sleep(0.02)
        return job.end()


def _names(store: Store) -> list[str]:
    return [name for name in store.state() if name.endswith((".tar", ".part", ".parquet"))]


def _made(store: Store) -> dict[str, bytes]:
    """What a user reads."""
    return {name: store.read(name) for name in _names(store)}


def _rows(store: Store) -> list[dict]:
    return pq.read_table(io.BytesIO(store.read("manifest.parquet"))).to_pylist()
