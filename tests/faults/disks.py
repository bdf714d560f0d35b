"""A disk that is full: OUTPUT, or the folder for temporary files, on a small tmpfs.

The job ends with one line and status 1, leaves nothing partial behind, and goes on when there is
room. Skipped where file systems cannot be mounted.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores import LocalStore

from faults import Result
from faults.checks import World
from faults.runs import Ended, command

# Room for run.json and a shard, not for all.
SMALL_KB, ROOM_KB = 24, 65_536
TASK_KB = 512
PARTIAL = (".partial/*", "wavmill-*", "tmp*")


def run(world: World, places: tuple[str, ...] = ("OUTPUT", "TMPDIR")) -> Iterator[Result]:
    """A result for each folder that is full."""
    for what in places:
        small = SMALL_KB if what == "OUTPUT" else TASK_KB
        result = Result(f"{what} on a full disk")
        place = world.folder / f"full-{what}"
        place.mkdir()
        try:
            with tmpfs(place, small):
                yield _full(world, what, (place, result))
        except PermissionError as error:
            result.skipped = str(error)
            yield result


@contextmanager
def tmpfs(place: Path, kilobytes: int) -> Iterator[None]:
    """A file system in memory. Raises PermissionError where it cannot be mounted."""
    try:
        _mount(place, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise PermissionError("file systems cannot be mounted here") from error
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _mount(place: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(place)], check=True, capture_output=True)


def _full(world: World, what: str, where: tuple[Path, Result]) -> Result:
    place, result = where
    store = LocalStore(place / "tokens" if what == "OUTPUT" else world.folder / "with-full-tmp")
    flags = world.flags(world.source, store.url)
    # Ray's own files stay on the large disk: its cluster needs more room than the shards.
    env, session = ({}, world.session) if what == "OUTPUT" else ({"TMPDIR": str(place)}, None)
    if env:
        filler = place / "filler"
        filler.write_bytes(bytes((TASK_KB - 8) << 10))
    with command("tokenize", *flags, env=env, session=session) as job:
        first = job.end()
    result.problems += _one_line(first)
    left = [
        str(path)
        for folder in (place, Path(store.url))
        for part in PARTIAL
        for path in folder.glob(part)
    ]
    result.problems += [f"left over: {path}" for path in left]
    if env:
        filler.unlink()
    _mount(place, "-o", f"remount,size={ROOM_KB}k")
    if not env:
        return world.check(result, store, [first, world.ended(*flags)])
    with command("tokenize", *flags, env=env) as job:
        return world.check(result, store, [first, job.end()])


def _one_line(run: Ended) -> list[str]:
    """What is wrong with the way in which a job on a full disk ended."""
    lines = [line for line in run.errors.splitlines() if "No space left" in line]
    if run.status != 1 or not lines:
        return [f"ended with {run.status}: {run.errors.strip()[-120:]}"]
    return []
