"""`make faults`: every fault, and a table of what became of each. Exits 1 if one is bad."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from faults import kills, s3_faults
from faults.checks import Result, World, remove, show

KINDS: dict[str, Callable[[World], Iterator[Result]]] = {
    "s3": s3_faults.run,
    "kills": kills.run,
}


def main() -> int:
    """Run the kinds that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)} (default: all)")
    kinds = parser.parse_args().kinds or list(KINDS)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        world = World(folder)
        return min(1, show(result for kind in kinds for result in KINDS[kind](world)))
    finally:
        remove(folder)


if __name__ == "__main__":
    sys.exit(main())
