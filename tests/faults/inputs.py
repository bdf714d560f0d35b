"""Inputs that change: while they are read, and between two runs of the same command."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
from ray_cluster import ray_processes
from stores import LocalStore

from faults import Result
from faults.checks import World, left_over, report_rows, shard_hashes
from faults.runs import Ended
from pipeline.shards.inputs import find_shards

# Copies of a shard's samples: it is still being read when it is changed.
COPIES = 12


def run(
    world: World,
    changes: tuple[str, ...] = ("overwritten", "replaced", "truncated"),
    *,
    between: bool = True,
) -> Iterator[Result]:
    """A result for each change.

    changes: those while a shard is read. between: also one between two runs.
    """
    other = world.source / world.names_of_tars()[1]
    functions: dict[str, Callable[[Path], object]] = {
        "overwritten": lambda path: shutil.copyfile(other, path),
        "replaced": lambda path: _replace(other, path),
        "truncated": _truncate,
    }
    for how in changes:
        yield _while_read(world, how, functions[how])
    if between:
        yield _between_runs(world)


def _replace(other: Path, path: Path) -> None:
    new = path.with_suffix(".new")
    shutil.copyfile(other, new)
    new.replace(path)


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 100)


def _while_read(world: World, how: str, change: Callable[[Path], object]) -> Result:
    """Change the one input while its task reads it: what comes out is of its last version."""
    result = Result(f"an input is {how} while it is read")
    inputs, store = world.folder / f"{how}-input", LocalStore(world.folder / f"{how}-output")
    inputs.mkdir()
    path = inputs / "long.tar"
    joined = b"".join((world.source / name).read_bytes() for name in world.names_of_tars())
    path.write_bytes(joined * COPIES)
    flags = world.flags(inputs, store.url)
    with world.command(*flags) as job:
        deadline = time.monotonic() + 120
        while not _reads(job.ray_folder, path) and time.monotonic() < deadline:
            assert job.process.poll() is None, job.log.read_text()
            time.sleep(0.02)
        change(path)
        first = job.end()
    version = find_shards([str(path)])[1][0]
    if (store.folder / "reports/long.parquet").exists():
        problem = _version_problem(store, (version.size, version.version))
        result.problems += [problem] if problem else []
    undisturbed = LocalStore(world.folder / f"{how}-undisturbed")
    runs = [first, world.ended(*world.flags(inputs, undisturbed.url))]
    return _compared(result, (store, undisturbed), runs)


def _compared(result: Result, stores: tuple[LocalStore, LocalStore], runs: list[Ended]) -> Result:
    """Fill a result: the first store must hold what the second does."""
    rows, wanted = (report_rows(store) for store in stores)
    result.times, result.samples, result.rows = len(runs), len(wanted), len(rows)
    result.equal = shard_hashes(stores[0]) == shard_hashes(stores[1])
    result.problems += [problem for run in runs for problem in run.problems()]
    if rows != wanted or not result.equal:
        result.problems.append("it is not what an undisturbed run of the last version makes")
    result.problems += left_over(stores[0], sorted({shard for shard, _ in wanted}))
    return result


def _reads(folder: str, path: Path) -> bool:
    """Whether a process of a Ray has a file open."""
    for process in ray_processes(folder):
        try:
            if any(link.resolve() == path for link in Path(f"/proc/{process}/fd").iterdir()):
                return True
        except OSError:
            continue  # it has ended
    return False


def _version_problem(store: LocalStore, version: tuple[int, str]) -> str | None:
    """What is wrong with the input's version in the report of the one shard."""
    report = pq.read_schema(store.folder / "reports/long.parquet").metadata
    recorded = tuple(json.loads(report[b"input"]))
    return None if recorded == version else f"the report says {recorded}, the input is {version}"


def _between_runs(world: World) -> Result:
    """A changed input is named; `refuse` stops, `redo` makes it again, and touches no other."""
    result = Result("an input changes between runs")
    inputs, store = world.folder / "changed-input", LocalStore(world.folder / "changed-output")
    shutil.copytree(world.source, inputs)
    flags = world.flags(inputs, store.url)
    runs = [world.run(*flags)]
    before, first = store.state(), inputs / world.names_of_tars()[0]
    _replace(inputs / world.names_of_tars()[-1], first)
    kept = world.run(*flags)
    said = "1 inputs have changed" in kept.stdout and first.stem in kept.stdout
    if not said or store.state() != before:
        result.problems.append("it does not say so, or does not keep the shards")
    refused = world.run(*flags, "--on-changed", "refuse")
    if refused.returncode != 2 or len(refused.stderr.strip().splitlines()) != 1:
        result.problems.append(f"refused with {refused.returncode}: {refused.stderr[:100]}")
    runs += [kept, world.run(*flags, "--on-changed", "redo")]
    after = store.state()
    touched = {
        name for name in before if name.startswith("shards/") and after[name] != before[name]
    }
    if touched != {f"shards/{first.stem}.tar"}:
        result.problems.append(f"redo wrote {sorted(touched)}")
    undisturbed = LocalStore(world.folder / "changed-undisturbed")
    runs.append(world.run(*world.flags(inputs, undisturbed.url)))
    return _compared(result, (store, undisturbed), [Ended(r.returncode, r.stderr) for r in runs])
