"""Praat's TextGrids and NIST's CTMs, which lie beside audio: read, and written for a part of it."""

import codecs
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenizer.errors import one_line

# The entry of a span that says why it cannot be used.
ERROR = "span_error"
# A string, in which quotes are doubled, or a number that stands alone.
PRAAT_VALUE = re.compile(r'("(?:[^"]|"")*")|(?<!\S)(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?!\S)')
INTERVALS = "IntervalTier"
# Sums and differences of decimal times are rounded to microseconds, as finely as any is given.
DECIMALS = 6


@dataclass
class Tier:
    """A tier of a TextGrid. kind: INTERVALS, or "TextTier" of points, which end where they start.

    items: (start, end, text), in seconds; intervals may have no text.
    """

    kind: str
    name: str
    items: list[tuple[float, float, str]] = field(default_factory=list)


def kind_of(ending: str) -> str:
    """The last part of an ending, in small letters."""
    return ending.rpartition(".")[2].lower()


def read_tiers(data: bytes) -> tuple[list[Tier], str | None]:
    """The tiers of a TextGrid, long form or short, and what is wrong with it behind them, or None.

    https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
    """
    values = iter(_praat_values(_text(data)))
    tiers: list[Tier] = []
    try:
        kinds = [next(values), next(values)]
        if kinds[1] != "TextGrid":
            raise ValueError(f"its class is {kinds[1]!r}")
        next(values), next(values)
        for _ in range(int(next(values))):
            tiers.append(Tier(next(values), next(values)))
            next(values), next(values)
            for _ in range(int(next(values))):
                start = _number(next(values))
                end = _number(next(values)) if tiers[-1].kind == INTERVALS else start
                tiers[-1].items.append((start, end, next(values)))
    except StopIteration:
        return tiers, "it is no TextGrid: it ends too early"
    except ValueError as error:
        return tiers, f"it is no TextGrid: {one_line(error)}"
    return tiers, None


def read_text_grid(data: bytes) -> Iterator[dict]:
    """The labelled intervals and points of all tiers of a TextGrid: {tier, start, end, text}.

    What cannot be read gives one span with its error.
    """
    tiers, error = read_tiers(data)
    for tier in tiers:
        for start, end, text in tier.items:
            if text.strip():
                yield {"tier": tier.name, "start": start, "end": end, "text": text}
    if error is not None:
        yield {ERROR: error}


def write_text_grid(tiers: list[Tier], seconds: float) -> bytes:
    """A TextGrid in the long form, from 0 to `seconds`.

    Intervals without text fill what a tier of intervals leaves open, as Praat wants them.
    """
    whole = ["xmin = 0", f"xmax = {seconds}"]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", *whole]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, tier in enumerate(tiers, 1):
        lines += [f"item [{number}]:", f"class = {_quoted(tier.kind)}"]
        lines += [f"name = {_quoted(tier.name)}", *whole]
        if tier.kind == INTERVALS:
            items = _without_gaps(tier.items, seconds)
            lines.append(f"intervals: size = {len(items)}")
            for place, (start, end, text) in enumerate(items, 1):
                lines += [f"intervals [{place}]:", f"xmin = {start}", f"xmax = {end}"]
                lines.append(f"text = {_quoted(text)}")
            continue
        lines.append(f"points: size = {len(tier.items)}")
        for place, (start, _, text) in enumerate(tier.items, 1):
            lines += [f"points [{place}]:", f"number = {start}", f"mark = {_quoted(text)}"]
    return ("\n".join(lines) + "\n").encode()


def _without_gaps(
    items: list[tuple[float, float, str]], seconds: float
) -> list[tuple[float, float, str]]:
    found, reached = [], 0.0
    for start, end, text in sorted(items):
        if start > reached:
            found.append((reached, start, ""))
        found.append((start, end, text))
        reached = max(reached, end)
    return [*found, (reached, seconds, "")] if reached < seconds else found


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _praat_values(text: str) -> Iterator[str]:
    """The strings and numbers of a Praat file: all else in it is comment."""
    for quoted, number in PRAAT_VALUE.findall(text):
        yield quoted[1:-1].replace('""', '"') if quoted else number


def ctm_lines(data: bytes) -> Iterator[tuple[str, tuple[float, float] | None]]:
    """(line, its start and end in seconds) of a CTM; None of what is no line of one.

    A line is "FILE CHANNEL START DURATION WORD [CONFIDENCE]".
    """
    for line in _text(data).splitlines():
        if not line.strip() or line.startswith(";;"):
            continue
        parts = line.split()
        try:
            start, duration, *_ = [_number(each) for each in (*parts[2:4], *parts[5:6])]
        except ValueError:
            yield line, None
            continue
        yield line, (start, round(start + duration, DECIMALS)) if len(parts) > 4 else None


def read_ctm(data: bytes) -> Iterator[dict]:
    """The lines of a CTM: {start, end, text, channel}, and confidence where there is one.

    A line's file is the sample's.
    """
    for line, times in ctm_lines(data):
        if times is None:
            yield {"line": line, ERROR: "it is no line of a CTM"}
            continue
        parts = line.split()
        span = {"start": times[0], "end": times[1], "text": parts[4]}
        more = {"confidence": float(parts[5])} if len(parts) > 5 else {}
        yield {**span, "channel": parts[1], **more}


def write_ctm(lines: list[tuple[float, float, str]], name: str) -> bytes:
    """The CTM of a file from (start, end, line) of another's. name: of the file, in every line."""
    text = ""
    for start, end, line in lines:
        _, channel, _, _, *rest = line.split()
        text += " ".join([name, channel, f"{start}", f"{round(end - start, DECIMALS)}", *rest])
        text += "\n"
    return text.encode()


def _number(text: str) -> float:
    """Raises ValueError for what is no finite number."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number")
    return number


def _text(data: bytes) -> str:
    """Text in UTF-16, as Praat may write it, or UTF-8."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")
