"""Time and memory of the rows of a table.

Rows take turns, so that a noisy machine slows all of them alike.
"""

import contextlib
import ctypes
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from jobs.bench.support.processes import status_mb


@dataclass(kw_only=True)
class Row:
    """What is measured: seconds of each turn, and peak memory in MB above the start of a turn.

    memory: False leaves the memory alone. To measure it, freed memory is returned to the system
    before each turn, which made training steps of 0.1 s a third slower.
    """

    name: str
    run: Callable[[], object]
    memory: bool = True
    seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    def turn(self) -> None:
        """Run once, and note time and peak memory."""
        _wait_for_gpu()
        before = _reset_peak() if self.memory else 0.0
        started = time.perf_counter()
        self.run()
        _wait_for_gpu()
        self.seconds.append(time.perf_counter() - started)
        if self.memory:
            self.peak_mb = max(self.peak_mb, status_mb("VmHWM") - before)

    @property
    def median(self) -> float:
        """Seconds of the median turn."""
        return statistics.median(self.seconds)


def take_turns(rows: Iterable[Row], turns: int) -> None:
    """Run each row once without measuring it, then all of them in turn, `turns` times."""
    rows = list(rows)
    for row in rows:
        row.run()
    for _ in range(turns):
        for row in rows:
            row.turn()


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> float:
    """Forget this process's peak memory (Linux). Returns the MB in use now."""
    # glibc keeps what earlier rows freed, and a row that reuses it would seem to need nothing.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return status_mb("VmRSS")
