"""The rows of a manifest of any kind, and their grouping by audio file."""

import hashlib
import math
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.ingest.manifests.places import AudioPlaces, Listings, Place
from pipeline.ingest.sources import (
    AUDIO,
    BAD_KEY,
    BAD_LINE,
    BAD_SPAN,
    DUPLICATE_KEY,
    Entry,
    SourceFile,
    as_json,
    key_of,
)


@dataclass(kw_only=True, slots=True)
class ManifestRow:
    """One line of a manifest.

    place: "FILE:NUMBER". key: as the manifest names it, or None to take the path's. path: of the
    audio, or None where `problem` says why there is none. candidates: other paths, tried when there
    is no file at the first. start, end: in seconds. metadata: what else the line holds.
    """

    place: str
    key: str | None = None
    path: str | None = None
    candidates: tuple[str, ...] = ()
    start: float = 0.0
    end: float | None = None
    channel: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def seconds(value: Any) -> float:
    """A time of a manifest. Raises ValueError unless it is a finite number, or text of one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is no time in seconds")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no time in seconds")
    return number


def with_span(
    row: ManifestRow, *, start: Any, end: Any = None, duration: Any = None
) -> ManifestRow:
    """Give a row its times, as the manifest has them; BAD_SPAN where they cannot be a part."""
    try:
        row.start = 0.0 if start is None else seconds(start)
        if end is not None:
            row.end = seconds(end)
        elif duration is not None:
            row.end = row.start + seconds(duration)
    except ValueError:
        row.problem = row.problem or BAD_SPAN
        return row
    if row.start < 0 or (row.end is not None and row.end <= row.start):
        row.start, row.end, row.problem = 0.0, None, row.problem or BAD_SPAN
    return row


def sources_of(
    rows: Iterable[tuple[ManifestRow, AudioPlaces]], listings: Listings
) -> list[SourceFile]:
    """Group rows by their audio file, in the order in which each file comes first.

    Rows that name no audio are a source of their own each, so that each has a row in the report.
    """
    entries: dict[str, list[Entry]] = {}
    names: dict[str, str] = {}
    seen: set[int] = set()
    for row, places in rows:
        place = Place("", row.place, row.problem or BAD_LINE)
        if row.path is not None:
            place = places.find(row.path, row.candidates)
        where = place.url or row.place
        names.setdefault(where, place.name)
        entries.setdefault(where, []).append(_entry(row, place, seen))
    sources = []
    for url, group in entries.items():
        usable = any(entry.problem is None for entry in group)
        size, version = listings.version(url) if usable else (-1, "")
        sources.append(
            SourceFile(
                kind=AUDIO,
                path=names[url],
                url=url,
                size=size,
                version=version,
                entries=tuple(group),
                problem=None if usable else group[0].problem,
            )
        )
    return sources


def _entry(row: ManifestRow, place: Place, seen: set[int]) -> Entry:
    problem = row.problem or place.problem
    stem = posixpath.splitext(place.name)[0] if row.path is not None else place.name
    try:
        key = key_of(row.key if row.key is not None else stem)
    except ValueError:
        key, problem = row.place, problem or BAD_KEY
    if row.key is None and (row.start or row.end is not None):
        end = "" if row.end is None else f"-{round(row.end * 1000):08d}"
        key += f"-{round(row.start * 1000):08d}{end}"
    if row.key is None and row.channel is not None:
        key += f"-ch{row.channel}"
    digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
    if problem is None and digest in seen:
        problem = DUPLICATE_KEY
    seen.add(digest)
    return Entry(
        key=key,
        start=row.start,
        end=row.end,
        channel=row.channel,
        metadata=as_json(row.metadata),
        place=row.place,
        problem=problem,
    )


def text_key(value: Any) -> str | None:
    """An id of a manifest as a key; numbers are taken, other things are none."""
    if isinstance(value, str) and value:
        return value
    return str(value) if type(value) is int else None


def first_of(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of these names that the row has."""
    return next((name for name in names if row.get(name) not in (None, "")), None)
