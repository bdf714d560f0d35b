"""CSV and TSV: a column of paths, and the others as metadata; LJSpeech's table without a header."""

import csv
from collections.abc import Iterator

from pipeline.ingest.manifests.json_lines import PATHS, row_of
from pipeline.ingest.manifests.rows import ManifestRow, first_of
from pipeline.ingest.manifests.text import LONGEST_LINE, open_text
from pipeline.ingest.sources import BAD_LINE
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.unpacking import UnpackError

# Folders beside a table in which its paths may begin: Common Voice's, LJSpeech's, others'.
SUBFOLDERS = ("", "clips", "wavs", "wav", "audio")
# Endings that a path without one may stand for.
ENDINGS = ("", ".wav", ".flac", ".mp3", ".ogg", ".opus")
# LJSpeech's metadata.csv: "LJ001-0001|text|normalised text", without a header or quotes.
LJSPEECH = ("id", "text", "normalized_text")


def read_table(url: str, name: str, path_column: str | None = None) -> Iterator[ManifestRow]:
    """The rows of a table. name: of the file, for their places.

    path_column: that names the audio; None looks for a usual name. Raises UsageError for a table
    without such a column, and for one that cannot be read.
    """
    csv.field_size_limit(LONGEST_LINE)
    try:
        with open_text(url) as text:
            first = text.readline(LONGEST_LINE)
        with open_text(url) as text:
            separator = _separator(first)
            quoted = separator == ","
            reader = csv.reader(
                text,
                delimiter=separator,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            )
            header = next(reader, [])
            column = path_column or first_of(dict.fromkeys(header, True), (*PATHS, "id"))
            if column is None and separator == "|" and 2 <= len(header) <= len(LJSPEECH):
                column = "id"
                yield _row(header, list(LJSPEECH), column=column, place=f"{name}:1")
                header = list(LJSPEECH)
            if column not in header:
                raise UsageError(
                    f"no column of it names audio: it has {', '.join(header[:10])[:200]}",
                    "name the column",
                    value=url,
                    argument="path_column",
                )
            for values in reader:
                if values:
                    yield _row(values, header, column=column, place=f"{name}:{reader.line_num}")
    except (OSError, UnpackError, csv.Error) as error:
        raise UsageError(
            f"it cannot be read as a table: {one_line(error)}",
            "mend it, or make it again",
            value=url,
        ) from error


def _separator(header: str) -> str:
    """Which letter parts the columns: one that gives a column of audio, where there is one."""
    names = {*PATHS, "id"}
    kinds = [each for each in "\t|," if each in header]
    usual = [
        each for each in kinds if names & {name.strip('"\r\n ') for name in header.split(each)}
    ]
    return (usual or kinds or [","])[0]


def _row(values: list[str], header: list[str], *, column: str, place: str) -> ManifestRow:
    if len(values) > len(header):
        return ManifestRow(place=place, problem=BAD_LINE, metadata={"line": values})
    row = row_of(place, dict(zip(header, values)), path_field=column)
    if row.path is not None:
        tries = [
            f"{folder}/{row.path}{ending}".lstrip("/")
            for folder in SUBFOLDERS
            for ending in ENDINGS
        ]
        row.candidates = tuple(each for each in tries if each != row.path)
    return row
