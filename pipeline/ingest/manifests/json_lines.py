"""JSON lines as NeMo writes them, and others like them: a path, times, and anything else."""

from collections.abc import Iterator

from pipeline.ingest.manifests.rows import ManifestRow, first_of, text_key, with_span
from pipeline.ingest.manifests.text import json_object, numbered_lines
from pipeline.ingest.sources import BAD_LINE

# Fields that name the audio and the sample, in the order in which they are looked for.
PATHS = ("audio_filepath", "audio_path", "audio", "path", "wav", "file_name", "file", "filename")
KEYS = ("key", "id", "utt_id", "utt")
STARTS, ENDS = ("offset", "start", "start_time"), ("end", "end_time")


def read_json_lines(url: str, name: str) -> Iterator[ManifestRow]:
    """The rows of a file of JSON lines. name: of the file, for their places.

    "duration" is a part's length where there is an offset; else it only says how long the file is.
    """
    for number, line in numbered_lines(url):
        place = f"{name}:{number}"
        value = json_object(line)
        if value is None:
            yield ManifestRow(place=place, problem=BAD_LINE, metadata={"line": line[:1000]})
            continue
        yield row_of(place, value)


def row_of(place: str, value: dict, path_field: str | None = None) -> ManifestRow:
    """A row of named fields. path_field: that names the audio; None looks for one of PATHS."""
    path_field = path_field or first_of(value, PATHS)
    key_field = first_of(value, KEYS)
    path = value.get(path_field) if path_field else None
    row = ManifestRow(place=place, key=text_key(value.get(key_field)) if key_field else None)
    row.metadata = value
    if not isinstance(path, str):
        row.problem = BAD_LINE
        return row
    row.path = path
    start, end = first_of(value, STARTS), first_of(value, ENDS)
    if start is not None:
        end_value = value[end] if end else None
        duration = None if end else value.get("duration")
        row = with_span(row, start=value[start], end=end_value, duration=duration)
    return row
