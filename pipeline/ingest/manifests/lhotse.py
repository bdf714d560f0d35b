"""Lhotse's manifests: cuts, or recordings with supervisions, as JSON lines.

Formats: https://lhotse.readthedocs.io/en/latest/corpus.html. What lhotse would compute when it
loads audio (mixing, resampling, changes of speed) is refused by name.
"""

import math
from collections.abc import Iterator
from typing import Any

from pipeline.ingest.manifests.rows import ManifestRow, seconds, with_span
from pipeline.ingest.manifests.text import json_object, numbered_lines
from pipeline.ingest.sources import BAD_LINE, COMMAND

UNSUPPORTED = "unsupported_cut"
FILES = ("file", "url")


def is_lhotse(value: dict) -> bool:
    """Whether a JSON object is a cut, a recording or a supervision of lhotse's."""
    cut = "recording" in value or value.get("type", "") in ("MonoCut", "MultiCut", "MixedCut")
    return cut or is_recording(value) or is_supervision(value)


def is_recording(value: dict) -> bool:
    """Whether a JSON object is a recording."""
    return isinstance(value.get("sources"), list) and "sampling_rate" in value


def is_supervision(value: dict) -> bool:
    """Whether a JSON object is a supervision: a part of a recording, and what is said in it."""
    return "recording_id" in value and "duration" in value and "recording" not in value


def read_lhotse(urls: list[tuple[str, str]]) -> Iterator[ManifestRow]:
    """The rows of manifests: their cuts; else the supervisions; else the recordings.

    urls: (URL, name for places) of each file. Supervisions find their recordings in any of the
    files.
    """
    recordings: dict[str, tuple[str, dict]] = {}
    supervisions: list[tuple[str, dict]] = []
    for url, name in urls:
        for number, line in numbered_lines(url):
            place = f"{name}:{number}"
            value = json_object(line)
            if value is None or not is_lhotse(value):
                yield ManifestRow(place=place, problem=BAD_LINE, metadata={"line": line[:1000]})
            elif is_recording(value):
                recordings[str(value.get("id"))] = (place, value)
            elif is_supervision(value):
                supervisions.append((place, value))
            else:
                yield from _cut_rows(place, value)
    if supervisions:
        for place, value in supervisions:
            _, recording = recordings.get(str(value["recording_id"]), ("", None))
            yield from _rows(place, value, recording, about=value)
    else:
        for place, value in recordings.values():
            yield from _rows(place, {"id": value.get("id")}, value, about=_without_audio(value))


def _cut_rows(place: str, cut: dict) -> Iterator[ManifestRow]:
    if cut.get("type") in ("MixedCut", "PaddingCut") or "tracks" in cut:
        yield ManifestRow(place=place, key=str(cut.get("id")), problem=UNSUPPORTED)
        return
    yield from _rows(place, cut, cut.get("recording"), about=_without_audio(cut))


def _without_audio(value: dict) -> dict:
    """What is said of a sample, without where its audio and features lie."""
    return {
        name: each
        for name, each in value.items()
        if name not in ("recording", "features", "sources", "transforms", "type")
    }


def _rows(
    place: str, part: dict[str, Any], recording: dict | None, *, about: dict
) -> Iterator[ManifestRow]:
    """A row for each channel of a part. part: has id, start, duration and channel."""
    key = str(part.get("id"))
    if not isinstance(recording, dict) or not isinstance(recording.get("sources"), list):
        yield ManifestRow(place=place, key=key, problem=BAD_LINE, metadata=about)
        return
    channel = part.get("channel")
    channels = channel if isinstance(channel, list) else [channel]
    for each in channels:
        row = ManifestRow(place=place, key=key, metadata=about)
        if len(channels) > 1:
            row.key = f"{key}-ch{each}"
        _find_channel(row, recording, each)
        if "start" in part or "duration" in part:
            whole = not part.get("start") and part.get("duration") == recording.get("duration")
            start = None if whole else part.get("start", 0)
            duration = None if whole else part.get("duration")
            row = _on_samples(with_span(row, start=start, duration=duration), recording, duration)
        yield row


def _on_samples(row: ManifestRow, recording: dict, duration: Any) -> ManifestRow:
    """A row's times on the samples that lhotse loads: it rounds the start and the length apart."""
    rate = recording.get("sampling_rate")
    if row.problem is None and row.end is not None and isinstance(rate, int) and rate > 0:
        first, count = (math.floor(each * rate + 0.5) for each in (row.start, seconds(duration)))
        row.start, row.end = first / rate, (first + count) / rate
    return row


def _find_channel(row: ManifestRow, recording: dict, channel: Any) -> None:
    """The file that holds a channel of a recording, and which of the file's channels it is."""
    sources = [each for each in recording["sources"] if isinstance(each, dict)]
    if channel is not None:
        sources = [each for each in sources if channel in (each.get("channels") or [])]
    if not sources:
        row.problem = BAD_LINE
        return
    source = sources[0]
    if source.get("type") == "command":
        row.problem = COMMAND
    elif recording.get("transforms") or source.get("type") not in FILES:
        row.problem = UNSUPPORTED
    elif not isinstance(source.get("source"), str):
        row.problem = BAD_LINE
    else:
        row.path = source["source"]
        of_file = source.get("channels") or []
        if channel is not None and len(of_file) > 1:
            row.channel = of_file.index(channel)
