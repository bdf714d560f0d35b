"""`make faults`: every fault, and a table of what became of each. Exits 1 if one is bad."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from faults import containers, disks, fuzz, inputs, kills, races, s3_faults, training_kills
from faults.checks import Result, World, remove, show


def damaged_containers(_: World) -> Iterator[Result]:
    """A result for all containers and damages; `python -m tests.faults.containers` lists them."""
    rows = list(containers.table(*containers.speech()))
    result = Result("containers, whole and damaged", times=len(rows), samples=len(rows))
    result.rows = len(rows)
    lost = [f"{row.form}, {row.damage}: under 98 % of the speech" for row in rows if row.lost]
    result.problems += lost
    yield result


KINDS: dict[str, Callable[[World], Iterator[Result]]] = {
    "s3": s3_faults.run,
    "kills": kills.run,
    "races": lambda world: races.run(world.folder),
    "inputs": inputs.run,
    "disks": disks.run,
    "containers": damaged_containers,
    "fuzz": lambda _: fuzz.run(),
    "training": training_kills.run,
}


def main() -> int:
    """Run the kinds that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)} (default: all)")
    kinds = parser.parse_args().kinds or list(KINDS)
    # What was started is ended, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        world = World(folder)
        return min(1, show(result for kind in kinds for result in KINDS[kind](world)))
    finally:
        remove(folder)


if __name__ == "__main__":
    sys.exit(main())
