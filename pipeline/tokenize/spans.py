"""Spans of a sample in seconds → the tokens that lie in them.

Spans are words, phones or speakers with their times: a list in the sample's json, a Praat TextGrid,
or a NIST CTM. Times count from the sample's start. Token t stands for the seconds [t, t + 1) /
tokens per second, where decoding puts its sound, and is part of the span that holds their middle:
spans that follow each other share no token and leave none out. (An encoder's receptive field has
its middle 2.5 ms later; with replicate padding, 22 ms earlier.)
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.shards.alignments import ERROR, kind_of, read_ctm, read_text_grid

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


# By the ending of what lies beside the audio.
PARSERS: dict[str, Callable[[bytes], Iterator[dict]]] = {
    "textgrid": read_text_grid,
    "ctm": read_ctm,
}
