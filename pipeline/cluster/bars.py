"""A progress bar of what one process does: it moves on a terminal, and is a few lines in a log."""

import sys

from tqdm import tqdm

LOG_SECONDS = 30.0


def bar(what: str, unit: str, total: int | None = None) -> tqdm:
    """Of `total` units, if that is known; its update() takes how many more are done."""
    return tqdm(
        desc=what,
        unit=f" {unit}",
        total=total,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else LOG_SECONDS,
    )
