"""Spans of a sample in seconds → the tokens that lie in them.

Spans are words, phones or speakers with their times: a list in the sample's json, a Praat TextGrid,
or a NIST CTM. Times count from the sample's start. Token t stands for the seconds [t, t + 1) /
tokens per second, where decoding puts its sound, and is part of the span that holds their middle:
spans that follow each other share no token and leave none out. (An encoder's receptive field has
its middle 2.5 ms later; with replicate padding, 22 ms earlier.)
"""

import codecs
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizer.errors import one_line

ERROR = "span_error"
# A string, in which quotes are doubled, or a number that stands alone.
PRAAT_VALUE = re.compile(r'("(?:[^"]|"")*")|(?<!\S)(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?!\S)')
# Alignments round: a span may end this many seconds behind its audio.
END_SLACK = 0.1


@dataclass(frozen=True)
class Audio:
    """What a span is placed in. tokens: how many the audio has."""

    duration_s: float
    tokens: int
    tokens_per_second: float


def spans_of(
    fields: Iterable[str], metadata: object, beside: dict[str, bytes], *, audio: Audio
) -> dict[str, list[dict]]:
    """{field: spans}, each span as it was, with first_token and end_token (half open).

    fields: names of lists in the metadata; those that are endings of PARSERS are read from what
    lies beside the audio. A span that cannot be placed is kept and has "span_error" instead. A
    sample without a field has no spans of it.
    """
    found: dict[str, list[dict]] = {}
    for name in fields:
        if parse := PARSERS.get(name.lower()):
            members = [data for end, data in beside.items() if kind_of(end) == name.lower()]
            spans = [span for data in members for span in parse(data)]
        else:
            members = [metadata[name]] if isinstance(metadata, dict) and name in metadata else []
            spans = [span for value in members for span in _listed(value)]
        if members:
            found[name] = [_placed(span, audio) for span in spans]
    return found


def kind_of(ending: str) -> str:
    """The last part of an ending, in small letters."""
    return ending.rpartition(".")[2].lower()


def _listed(value: object) -> Iterator[dict]:
    if not isinstance(value, list):
        yield {"value": value, ERROR: "it is no list"}
        return
    for each in value:
        yield each if isinstance(each, dict) else {"value": each, ERROR: "it is no JSON object"}


def _placed(span: dict, audio: Audio) -> dict:
    if ERROR in span:
        return span
    try:
        start, end = _seconds(span.get("start"), "start"), _seconds(span.get("end"), "end")
        if start < 0:
            raise ValueError("it starts before the audio")
        if end < start:
            raise ValueError("it ends before it starts")
        if end > audio.duration_s + END_SLACK:
            raise ValueError(f"it ends after the audio, of {audio.duration_s:g} s")
    except ValueError as error:
        return {**span, ERROR: str(error)}
    first, stop = (
        min(math.ceil(time * audio.tokens_per_second - 0.5), audio.tokens) for time in (start, end)
    )
    return {**span, "first_token": first, "end_token": stop}


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"its {name} is no number")
    return float(value)


def read_text_grid(data: bytes) -> Iterator[dict]:
    """The labelled intervals and points of all tiers of a Praat TextGrid, long form or short.

    {tier, start, end, text}; a point starts and ends at its time. What cannot be read gives one
    span with its error. https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
    """
    values = iter(_praat_values(_text(data)))
    try:
        kinds = [next(values), next(values)]
        if kinds[1] != "TextGrid":
            raise ValueError(f"its class is {kinds[1]!r}")
        next(values), next(values)
        for _ in range(int(next(values))):
            kind, tier = next(values), next(values)
            next(values), next(values)
            for _ in range(int(next(values))):
                start = float(next(values))
                end = float(next(values)) if kind == "IntervalTier" else start
                text = str(next(values))
                if text.strip():
                    yield {"tier": tier, "start": start, "end": end, "text": text}
    except StopIteration:
        yield {ERROR: "it is no TextGrid: it ends too early"}
    except ValueError as error:
        yield {ERROR: f"it is no TextGrid: {one_line(error)}"}


def _praat_values(text: str) -> Iterator[str]:
    """The strings and numbers of a Praat file: all else in it is comment."""
    for quoted, number in PRAAT_VALUE.findall(text):
        yield quoted[1:-1].replace('""', '"') if quoted else number


def read_ctm(data: bytes) -> Iterator[dict]:
    """The lines of a CTM: {start, end, text, channel}, and confidence where there is one.

    A line is "FILE CHANNEL START DURATION WORD [CONFIDENCE]"; its file is the sample's.
    """
    for line in _text(data).splitlines():
        if not line.strip() or line.startswith(";;"):
            continue
        parts = line.split()
        try:
            start, duration = float(parts[2]), float(parts[3])
            # Sums of decimal times are rounded as the times are.
            span = {"start": start, "end": round(start + duration, 6), "text": parts[4]}
            more = {"confidence": float(parts[5])} if len(parts) > 5 else {}
        except (ValueError, IndexError):
            yield {"line": line, ERROR: "it is no line of a CTM"}
            continue
        yield {**span, "channel": parts[1], **more}


def _text(data: bytes) -> str:
    """Text in UTF-16, as Praat may write it, or UTF-8."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")


# By the ending of what lies beside the audio.
PARSERS: dict[str, Callable[[bytes], Iterator[dict]]] = {
    "textgrid": read_text_grid,
    "ctm": read_ctm,
}
