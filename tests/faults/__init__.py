"""Faults on purpose, a module for each kind: `make faults` runs them all and prints a table.

Each module has `run(world, ...)`, which yields a Result for each fault; test_faults.py runs a short
form of each. Nothing heavy is imported here: processes that read mutated inputs start from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Result:
    """A row of the table. times: runs of the command, or tries. problems: why it is bad.

    equal: whether the bytes are those of an undisturbed run; None where there are none. skipped:
    why it was not tried.
    """

    fault: str
    times: int = 0
    samples: int = 0
    rows: int = 0
    equal: bool | None = None
    problems: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """What the table says of it."""
        return f"skipped: {self.skipped}" if self.skipped else "; ".join(self.problems) or "ok"

    def line(self) -> str:
        """The row as the table has it."""
        equal = {None: "-", True: "yes", False: "NO"}[self.equal]
        figures = (f"{self.times:,}", f"{self.samples:,}", f"{self.rows:,}", equal, self.verdict)
        return f"| {self.fault} | {' | '.join(figures)} |"


COLUMNS = ("fault", "times", "samples in", "rows out", "equal", "verdict")


def show(results: Iterable[Result]) -> int:
    """Print the table, a row as soon as it is known. Returns the number of bad rows."""
    print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)
    bad = 0
    for result in results:
        print(result.line(), flush=True)
        bad += bool(result.problems)
    return bad
