"""A chart of shares with their intervals: one task below the other, against chance and others."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pipeline.report.charts import BOTTOM, RIGHT, TOP, WIDTH, Axis, colour, figure, number

ROW_HEIGHT = 26
# Letters of a task's name beside its row.
LONGEST_NAME = 22


@dataclass(frozen=True)
class Accuracy:
    """A measured share with its 95 % interval, and what others have published of the same task."""

    name: str
    share: float
    low: float
    high: float
    published: dict[str, float]


def accuracy_chart(title: str, tasks: Sequence[Accuracy], *, chance: float, about: str = "") -> str:
    """Shares with intervals, one below the other, a line at chance, and marks of others."""
    height, left = TOP + ROW_HEIGHT * len(tasks) + BOTTOM, 165
    values = [v for t in tasks for v in (t.low, t.high, *t.published.values())]
    across = Axis([min(0.4, *values), 1.0], (left, WIDTH - RIGHT), False)
    bottom = height - BOTTOM
    parts = [
        f'<line class="grid" x1="{across(tick)}" x2="{across(tick)}" y1="{TOP}" y2="{bottom}"/>'
        f'<text class="tick" x="{across(tick)}" y="{bottom + 16}" text-anchor="middle">'
        f"{number(tick)}</text>"
        for tick in across.ticks
    ]
    parts.append(
        f'<line class="chance" x1="{across(chance)}" x2="{across(chance)}" y1="{TOP}" '
        f'y2="{bottom}"/><text class="label" x="{(left + WIDTH) / 2}" y="{height - 8}" '
        f'text-anchor="middle">share of pairs (dashed: chance)</text>'
    )
    systems = list(dict.fromkeys(name for task in tasks for name in task.published))
    points, rows = [], []
    for order, task in enumerate(tasks):
        y = TOP + ROW_HEIGHT * (order + 0.5)
        name = task.name.replace("_", " ")
        name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(name)}'
            f'</text><line class="interval" x1="{across(task.low)}" x2="{across(task.high)}" '
            f'y1="{y}" y2="{y}"/>'
        )
        for system, share in task.published.items():
            of, start = colour(systems.index(system) + 1), f"M{across(share)},{y - 5}"
            parts.append(f'<path class="mark {of}" d="{start}l5,5l-5,5l-5,-5z"/>')
            points.append([across(share), y, f"{task.name}: {share:.3f}, {system}"])
        parts.append(f'<circle class="dot s0" cx="{across(task.share)}" cy="{y}" r="4.5"/>')
        interval = f"{task.low:.3f} to {task.high:.3f}"
        points.append([across(task.share), y, f"{task.name}: {task.share:.3f} ({interval})"])
        others = [f"{task.published[s]:.3f}" if s in task.published else "–" for s in systems]
        rows.append((task.name, f"{task.share:.3f}", interval, *others))
    spoken = "; ".join(f"{task.name} {task.share:.3f}" for task in tasks)
    return figure(
        title, "".join(parts), points=points, spoken=f"shares of pairs, chance {chance}: {spoken}",
        about=about, keys=["this model", *systems] if systems else [], height=height, by_rows=True,
        heads=("task", "share", "95 % interval", *systems), rows=rows,
    )  # fmt: skip
