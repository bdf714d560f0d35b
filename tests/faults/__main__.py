"""`make faults`: every fault, and a table of what became of each. Exits 1 if one is bad.

The seconds that each kind took are printed on stderr. Other moments and choices than those of a
run before come of another --seed.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from faults import (
    Result,
    containers,
    disks,
    fuzz,
    inputs,
    kills,
    races,
    s3_faults,
    show,
    training_kills,
)
from faults.checks import World, remove


def damaged_containers() -> Iterator[Result]:
    """A result for all containers and damages; `python -m tests.faults.containers` lists them."""
    rows = list(containers.table(*containers.speech()))
    result = Result("containers, whole and damaged", times=len(rows), samples=len(rows))
    result.rows = len(rows)
    lost = [f"{row.form}, {row.damage}: under 98 % of the speech" for row in rows if row.lost]
    result.problems += lost
    yield result


KINDS: dict[str, Callable[[World, int], Iterator[Result]]] = {
    "s3": lambda world, seed: s3_faults.run(world, seed=seed),
    "kills": lambda world, seed: kills.run(world, seed=seed),
    "ingest": lambda world, seed: kills.run_ingest(world, seed=seed),
    "races": lambda world, _: chain(races.run(world.folder), races.together(world)),
    "inputs": lambda world, _: inputs.run(world),
    "disks": lambda world, _: disks.run(world),
    "containers": lambda *_: damaged_containers(),
    "fuzz": lambda _, seed: fuzz.run(seed=seed),
    "training": lambda world, seed: training_kills.run(world, seed=seed),
}


def timed(kind: str, world: World, seed: int) -> Iterator[Result]:
    """The results of a kind, and how long they took."""
    began = time.monotonic()
    yield from KINDS[kind](world, seed)
    print(f"{kind}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def main() -> int:
    """Run the kinds that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    args = parser.parse_args()
    kinds = args.kinds or list(KINDS)
    # What was started is ended, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        world = World(folder)
        return min(1, show(result for kind in kinds for result in timed(kind, world, args.seed)))
    finally:
        remove(folder)


if __name__ == "__main__":
    sys.exit(main())
