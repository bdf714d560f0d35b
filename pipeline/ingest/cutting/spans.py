"""What a recording's metadata and alignments say with times → the same about a segment of it.

Spans are words, phones or turns: in the metadata, at any place, lists of {"start", "end"} or
{"start", "duration"} in seconds, which may hold such lists themselves (a turn's words); beside the
audio, a TextGrid or a CTM.
"""

import math
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.shards.alignments import (
    DECIMALS,
    INTERVALS,
    Tier,
    ctm_lines,
    kind_of,
    read_tiers,
    write_ctm,
    write_text_grid,
)

# In lhotse's supervisions: {"word": [[symbol, start, duration, score], ...]}.
ALIGNMENT = "alignment"
NO_TIMES = (None, None)
# Lists that lie deeper in the metadata are not looked for.
DEEPEST = 16


class RecordingSpans:
    """The spans of one recording, from which each of its segments takes its own.

    A span that a segment holds in part is cut to it. All else in the metadata is every segment's.
    whole: endings of what lies beside the recording and has no times by which it could be cut.
    """

    def __init__(self, metadata: dict, beside: Mapping[str, bytes]) -> None:
        """beside: {ending: content}, without the json."""
        self._metadata = _with_spans(metadata)
        self._grids: dict[str, list[tuple[Tier, _Spans]]] = {}
        self._ctms: dict[str, _Spans] = {}
        self.whole: list[str] = []
        for ending, data in beside.items():
            kind, error = kind_of(ending), None
            if kind == "textgrid":
                tiers, error = read_tiers(data)
                self._grids[ending] = [(tier, _Spans(_labelled(tier))) for tier in tiers]
            elif kind == "ctm":
                self._ctms[ending] = _Spans(
                    [(*(times or NO_TIMES), line) for line, times in ctm_lines(data)]
                )
            if error is not None or kind not in ("textgrid", "ctm"):
                self._grids.pop(ending, None)
                self.whole.append(ending)

    def of_segment(self, key: str, start: float, end: float) -> tuple[dict, dict[str, bytes]]:
        """(metadata, {ending: content} of what lies beside it) of the segment with this key."""
        beside = {}
        for ending, tiers in self._grids.items():
            cut = [Tier(tier.kind, tier.name, spans.within(start, end)) for tier, spans in tiers]
            beside[ending] = write_text_grid(cut, round(end - start, DECIMALS))
        for ending, lines in self._ctms.items():
            beside[ending] = write_ctm(lines.within(start, end), posixpath.basename(key))
        return _cut(self._metadata, start, end), beside

    def left(self) -> Counter[str]:
        """{field or ending: spans that no segment has had}: they lie between the segments, or have
        no times that can be used.
        """
        counts = _unused(self._metadata)
        for ending, tiers in self._grids.items():
            counts[ending] += sum(spans.unused() for _, spans in tiers)
        for ending, lines in self._ctms.items():
            counts[ending] += lines.unused()
        return +counts


class _Spans:
    """(start, end, what it is of) of spans, in seconds; None for times that cannot be used."""

    def __init__(self, spans: Sequence[tuple[Any, Any, Any]]) -> None:
        self._spans = spans
        times = [_usable(start, end) or (-1.0, -1.0) for start, end, _ in spans]
        self._starts, self._ends = np.array(times, np.float64).reshape(-1, 2).T
        self._used = np.zeros(len(spans), bool)

    def within(self, start: float, end: float) -> list[tuple[float, float, Any]]:
        """Those that lie in a segment or reach into it, in order, by the segment's time."""
        points = (self._starts == self._ends) & (self._starts >= start) & (self._starts < end)
        found = points | ((self._starts < end) & (self._ends > start))
        self._used |= found
        firsts = np.round(np.maximum(self._starts[found], start) - start, DECIMALS).tolist()
        lasts = np.round(np.minimum(self._ends[found], end) - start, DECIMALS).tolist()
        items = [self._spans[place][2] for place in np.flatnonzero(found).tolist()]
        return list(zip(firsts, lasts, items, strict=True))

    def unused(self) -> int:
        """How many no segment has had."""
        return int((~self._used).sum())


def _labelled(tier: Tier) -> list[tuple[float, float, str]]:
    """Its items without the intervals between labels, of which nothing is said."""
    return [item for item in tier.items if tier.kind != INTERVALS or item[2].strip()]


def _usable(start: object, end: object) -> tuple[float, float] | None:
    """Times as numbers of seconds, or None where they are none."""
    times = [each for each in (start, end) if isinstance(each, (int, float))]
    if len(times) < 2 or bool in map(type, times) or not 0 <= times[0] <= times[1] < math.inf:
        return None
    return float(times[0]), float(times[1])


def _with_spans(value: Any, *, aligned: bool = False, depth: int = 0) -> Any:
    """A value of the metadata, with `_Spans` in the place of lists of spans.

    aligned: whether it is of lhotse's alignments.
    """
    if depth == DEEPEST:
        return value
    if isinstance(value, dict):
        return {
            name: _with_spans(each, aligned=aligned or name == ALIGNMENT, depth=depth + 1)
            for name, each in value.items()
        }
    if not isinstance(value, list):
        return value
    times = [_times_of(each, aligned) for each in value]
    if any(_usable(*each) for each in times):
        inner = [_with_spans(each, depth=depth + 1) for each in value]
        return _Spans([(*each, item) for each, item in zip(times, inner, strict=True)])
    if _of_objects(value):
        return [_with_spans(each, depth=depth + 1) for each in value]
    return value


def _times_of(span: Any, aligned: bool) -> tuple[Any, Any]:
    """The start and the end of what may be a span, as they are given."""
    start: Any = None
    end = duration = None
    if isinstance(span, dict):
        start, end, duration = span.get("start"), span.get("end"), span.get("duration")
    elif aligned and isinstance(span, list) and len(span) > 2:
        start, duration = span[1:3]
    if end is None and _usable(start, start) and (length := _usable(0, duration)):
        end = start + length[1]
    return start, end


def _cut(value: Any, start: float, end: float, *, depth: int = 0) -> Any:
    """A value, as `_with_spans` gives it, for a segment."""
    if isinstance(value, _Spans):
        return [_moved(*span, start=start, end=end) for span in value.within(start, end)]
    if depth < DEEPEST and isinstance(value, dict):
        return {name: _cut(each, start, end, depth=depth + 1) for name, each in value.items()}
    if depth < DEEPEST and _of_objects(value):
        return [_cut(each, start, end, depth=depth + 1) for each in value]
    return value


def _moved(first: float, last: float, span: Any, *, start: float, end: float) -> Any:
    """A span with other times. start, end: of the segment, by which what is in the span is cut."""
    seconds = round(last - first, DECIMALS)
    if isinstance(span, list):
        return [span[0], first, seconds, *span[3:]]
    times = {"start": first, "end": last, "duration": seconds}
    return {**_cut(span, start, end), **{name: times[name] for name in times if name in span}}


def _unused(value: Any, name: str = "", *, depth: int = 0) -> Counter[str]:
    """{field: spans that no segment has had}, of a value as `_with_spans` gives it."""
    if isinstance(value, _Spans):
        return Counter({name: value.unused()})
    counts: Counter[str] = Counter()
    if depth < DEEPEST and isinstance(value, dict):
        for each, inner in value.items():
            counts += _unused(inner, f"{name}.{each}" if name else each, depth=depth + 1)
    elif depth < DEEPEST and _of_objects(value):
        for inner in value:
            counts += _unused(inner, name, depth=depth + 1)
    return counts


def _of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)
