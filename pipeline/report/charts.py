"""Charts as SVG, drawn here so that a report needs no library and no network.

A chart is a figure: its title, the drawing with a text that says what it shows, and its numbers as
a table. page.js lets a reader hover over it, or step through it with the arrow keys. Colours are
classes of page.css, so that they follow dark mode and print.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 44
# Rows of the table below a chart; of a longer series every n-th is shown.
MOST_ROWS = 40


@dataclass(frozen=True)
class Series:
    """A line: its name, and the numbers of its points."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def number(value: float) -> str:
    """A number as axes and tables show it: three digits that count, thousands with commas."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def colour(place: int) -> str:
    """The class of a series: the first is what the report is about, and no other has its colour."""
    return f"s{1 + (place - 1) % 5 if place else 0}"


def tick_text(value: float) -> str:
    """A number beside an axis, where there is room for five letters."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return number(value)


class Axis:
    """One axis: numbers to pixels, and where its ticks are."""

    def __init__(self, values: Sequence[float], pixels: tuple[float, float], log: bool) -> None:
        """pixels: of the least and of the greatest value. log: a logarithmic axis."""
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(finite), max(finite)) if finite else (1.0, 1.0)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        self.pixels, self.log = pixels, log
        if log:
            self.low, self.high = low, high
            self.ticks = _log_ticks(low, high)
        else:
            step = _step(high - low)
            if all(value == int(value) for value in finite):
                step = max(step, 1)
            self.low, self.high = math.floor(low / step) * step, math.ceil(high / step) * step
            count = round((self.high - self.low) / step)
            self.ticks = [round(self.low + step * place, 12) for place in range(count + 1)]

    def __call__(self, value: float) -> float:
        """Where a value is, in pixels."""
        scale: Callable[[float], float] = math.log if self.log else float
        low, high = scale(self.low), scale(self.high)
        share = (scale(value) - low) / (high - low)
        return round(self.pixels[0] + share * (self.pixels[1] - self.pixels[0]), 1)


def _step(span: float) -> float:
    """A round distance between ticks, of which there are four to eight."""
    power = 10 ** math.floor(math.log10(span / 4))
    return power * next(part for part in (1, 2, 2.5, 5, 10) if power * part >= span / 6.5)


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 5), (1, 3), (1,)):
        ticks = [part * 10.0**power for power in powers for part in parts]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 7:
            return ticks
    return ticks[:: -(-len(ticks) // 7)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    about: str = "",
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
) -> str:
    """Lines over one axis. x, y: what the axes say. about: one sentence under the title."""
    across = Axis([v for s in series for v in s.xs], (LEFT, WIDTH - RIGHT), log_x)
    values = [v for s in series for v in s.ys] + ([0.0] if from_zero else [])
    up = Axis(values, (HEIGHT - BOTTOM, TOP), log_y)
    parts, points = [_axes(across, up, x=x, y=y)], []
    for order, line in enumerate(series):
        drawn = [(across(a), up(b), a, b) for a, b in zip(line.xs, line.ys) if math.isfinite(b)]
        path = " ".join(f"{a},{b}" for a, b, _, _ in drawn)
        parts.append(f'<polyline class="line {colour(order)}" points="{path}"/>')
        of = f"{line.name}; " if len(series) > 1 else ""
        points += [
            [a, b, f"{of}{x}: {number(place)}, {y}: {number(value)}"]
            for a, b, place, value in drawn
        ]
        if len(drawn) < 2:
            parts += [
                f'<circle class="dot {colour(order)}" cx="{a}" cy="{b}" r="3"/>'
                for a, b, _, _ in drawn
            ]
    named = [[line.name] if len(series) > 1 else [] for line in series]
    rows = [
        (*name, number(a), number(b))
        for name, line in zip(named, series)
        for a, b in zip(line.xs, line.ys)
    ]
    heads = ("series", x, y) if len(series) > 1 else (x, y)
    keys = [line.name for line in series] if len(series) > 1 else []
    spoken = "; ".join(
        f"{line.name} from {number(line.ys[0])} to {number(line.ys[-1])}"
        for line in series
        if len(line.ys)
    )
    return figure(
        title,
        "".join(parts),
        points=points,
        spoken=f"{y} by {x}: {spoken}",
        about=about,
        keys=keys,
        heads=heads,
        rows=rows,
    )


def bar_chart(
    title: str,
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    x: str,
    y: str,
    about: str = "",
    log_x: bool = False,
) -> str:
    """A histogram. edges: one more than counts."""
    across = Axis(edges, (LEFT, WIDTH - RIGHT), log_x)
    up = Axis([0.0, *counts], (HEIGHT - BOTTOM, TOP), False)
    parts, points, rows = [_axes(across, up, x=x, y=y)], [], []
    for start, stop, count in zip(edges[:-1], edges[1:], counts):
        left, right, top = across(start), across(stop), up(count)
        size = f'width="{max(right - left - 1, 1):.1f}" height="{HEIGHT - BOTTOM - top:.1f}"'
        parts.append(f'<rect class="bar" x="{left}" y="{top}" {size}/>')
        between = f"{number(start)} to {number(stop)}"
        points.append([round((left + right) / 2, 1), top, f"{number(count)} {y}, {between} {x}"])
        rows.append((between, number(count)))
    spoken = f"{y} by {x}, {number(edges[0])} to {number(edges[-1])}"
    return figure(
        title, "".join(parts), points=points, spoken=spoken, about=about, heads=(x, y), rows=rows
    )


def _axes(across: Axis, up: Axis, *, x: str, y: str) -> str:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    rows = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick)}" y2="{up(tick)}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{up(tick) + 4}" text-anchor="end">{tick_text(tick)}'
        "</text>"
        for tick in up.ticks
    ]
    columns = [
        f'<text class="tick" x="{across(tick)}" y="{bottom + 16}" text-anchor="middle">'
        f"{tick_text(tick)}</text>"
        for tick in across.ticks
    ]
    return (
        "".join(rows + columns)
        + f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" '
        f'text-anchor="middle">{escape(x)}</text><text class="label" text-anchor="middle" '
        f'transform="translate(11,{middle}) rotate(-90)">{escape(y)}</text>'
    )


def figure(
    title: str,
    drawing: str,
    *,
    points: list,
    spoken: str,
    about: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    keys: Sequence[str] = (),
    height: int = HEIGHT,
    by_rows: bool = False,
) -> str:
    """A chart's HTML. drawing: SVG. points: [x, y, text] each, in pixels of the drawing.

    spoken: what the drawing shows, for who does not see it. heads, rows: its numbers as a table.
    keys: names of the colours, in the order of `colour`.

    by_rows: the pointer's height decides which point it is at; else its place along the axis does.
    """
    legend = "".join(
        f'<span class="key {colour(k)}">{escape(name)}</span>' for k, name in enumerate(keys)
    )
    rows_mark = ' data-rows="yes"' if by_rows else ""
    shown = rows[:: max(1, -(-len(rows) // MOST_ROWS))]
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>'
        + (f"<span>{escape(about)}</span>" if about else "")
        + (f'<span class="keys">{legend}</span>' if keys else "")
        + f'</figcaption><div class="plot" tabindex="0" role="group" aria-label="{escape(title)}; '
        f'arrow keys read its points" data-points="{escape(json.dumps(points))}"{rows_mark}>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}: '
        f'{escape(spoken)}">{drawing}</svg></div>'
        f"<details><summary>Numbers</summary>{table(heads, shown)}</details></figure>"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells of numbers stand on the right. All text is escaped."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    rows_of = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{rows_of}</table></div>'
