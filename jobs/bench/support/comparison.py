"""A table of jobs/bench/published.py: rows of the authors' code, and rows of ours beside them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.bench.support.timing import Row, take_turns

# What our bf16 rows are compared with. Their code runs in fp32 where its caller does nothing more;
# autocast is what their own speed test uses for less, and they convert no weights to bf16.
THEIR_PRECISIONS = {"": "fp32", "their autocast": "autocast", "their bf16 weights": "bf16"}


@dataclass(kw_only=True)
class Table:
    """Rows that do the same. audio: seconds of speech in a turn.

    theirs: by way and precision; one table can have several ways, such as one utterance after the
    other. ours: by precision. ceilings: by precision, what limits us and the seconds of a turn that
    takes nothing else.
    """

    title: str
    audio: float
    theirs: dict[tuple[str, str], Row] = field(default_factory=dict)
    ours: dict[str, Row] = field(default_factory=dict)
    ceilings: dict[str, tuple[str, float]] = field(default_factory=dict)

    def add_theirs(self, way: str, precision: str, run: Callable[[], object]) -> None:
        """A row of theirs."""
        label = ", ".join(filter(None, ("theirs", precision, way)))
        self.theirs[way, precision] = Row(name=label, run=run, memory=False)

    def add_ours(self, precision: str, run: Callable[[], object]) -> None:
        """A row of ours."""
        self.ours[precision] = Row(name=f"ours, {precision}", run=run, memory=False)

    def add_ceiling(self, precision: str, limit: str, seconds: float) -> None:
        """How long a turn of ours takes at least."""
        self.ceilings[precision] = limit, seconds

    def measure(self, turns: int) -> None:
        """Run all rows, and print them."""
        take_turns([*self.theirs.values(), *self.ours.values()], turns)
        print(f"\n{self.title}")
        for row in self.theirs.values():
            self._show(row, "")
        for precision, row in self.ours.items():
            ratios = self._ratios(row.median, "fp32")
            if precision == "bf16":
                ratios = "  ".join(
                    f"{name}: {self._ratios(row.median, compared)}" if name else ratios
                    for name, compared in THEIR_PRECISIONS.items()
                )
            self._show(row, ratios)
            if precision in self.ceilings:
                self._show_ceiling(precision)

    def _ratios(self, seconds: float, precision: str) -> str:
        """How much less that is than each way of theirs in a precision."""
        ratios = []
        for way in dict.fromkeys(way for way, _ in self.theirs):
            ratios.append(f"{self.theirs[way, precision].median / seconds:.2f} x {way}".strip())
        return ", ".join(ratios)

    def _show_ceiling(self, precision: str) -> None:
        limit, seconds = self.ceilings[precision]
        ratios = self._ratios(seconds, "fp32")
        print(f"  {f'  {limit}':<34}{1e3 * seconds:9.1f}{'':26}  {ratios}", flush=True)

    def _show(self, row: Row, note: str) -> None:
        fastest, slowest = min(row.seconds), max(row.seconds)
        spread = f"{1e3 * fastest:.0f} to {1e3 * slowest:.0f}"
        print(
            f"  {row.name:<34}{1e3 * row.median:9.1f}{spread:>17}{self.audio / row.median:9.2f}  "
            f"{note}".rstrip(),
            flush=True,
        )
