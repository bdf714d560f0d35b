"""What the inputs of ingest are: told by what they hold, or by the format that is asked for."""

import posixpath
from collections.abc import Iterator

from pipeline.ingest.loose import find_loose, unusable_below
from pipeline.ingest.manifests.json_lines import read_json_lines
from pipeline.ingest.manifests.kaldi import WAVS, read_kaldi
from pipeline.ingest.manifests.lhotse import is_lhotse, read_lhotse
from pipeline.ingest.manifests.places import AudioPlaces, Listings
from pipeline.ingest.manifests.rows import ManifestRow, sources_of
from pipeline.ingest.manifests.tables import read_table
from pipeline.ingest.manifests.text import json_object, numbered_lines
from pipeline.ingest.sources import AUDIO, MISSING_FILE, PARQUET, TAR, SourceFile, key_of
from pipeline.shards.inputs import SHARD_ENDINGS, find_files
from pipeline.shards.listing import LeftOut, has_magic
from tokenizer.audio.containers.find import SOUND_ENDINGS
from tokenizer.errors import UsageError
from tokenizer.storage.folder import filesystem

JSON_LINES, TABLE, KALDI, LHOTSE = "jsonl", "csv", "kaldi", "lhotse"
FORMATS = (AUDIO, JSON_LINES, TABLE, KALDI, LHOTSE, PARQUET, TAR)
ENDINGS = {
    JSON_LINES: (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz"),
    TABLE: (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    PARQUET: (".parquet",),
    TAR: SHARD_ENDINGS,
}
SOUNDS = tuple(f".{ending}" for ending in SOUND_ENDINGS)


def find_sources(
    values: list[str],
    format: str | None = None,
    *,
    audio_root: str | None = None,
    path_column: str | None = None,
) -> tuple[list[SourceFile], LeftOut]:
    """The sources that the inputs name, in order, and what is left out of folders.

    format: one of FORMATS, or None to tell it from the inputs, which are then all of one kind.
    audio_root: folder of a manifest's or table's paths; None is its own. path_column: of a table.
    Raises UsageError for an input that cannot be read.
    """
    kind = format or _kind(values)
    if kind == AUDIO:
        return find_loose(values)
    if kind in (PARQUET, TAR):
        return _tables_or_tars(values, kind, audio_root)
    listings = Listings()
    rows = _rows(values, kind, path_column=path_column)
    placed: dict[str, AudioPlaces] = {}

    def with_places() -> Iterator[tuple[ManifestRow, AudioPlaces]]:
        for manifest, row in rows:
            if manifest not in placed:
                placed[manifest] = AudioPlaces(manifest, listings, audio_root)
            yield row, placed[manifest]

    sources = sources_of(with_places(), listings)
    if not sources:
        raise UsageError("it has no rows", "give a manifest that has some", value=" ".join(values))
    return sources, LeftOut()


def _rows(
    values: list[str], kind: str, *, path_column: str | None
) -> Iterator[tuple[str, ManifestRow]]:
    """(URL of the manifest, row) of every row."""
    if kind == KALDI:
        for value in values:
            fs, path = filesystem(value)
            folder = path.rstrip("/")
            manifest = fs.unstrip_protocol(f"{folder}/{WAVS}")
            for row in read_kaldi(value, posixpath.basename(folder)):
                yield manifest, row
        return
    _, files = find_files(values, ENDINGS[TABLE if kind == TABLE else JSON_LINES])
    if kind == LHOTSE:
        first = next(iter(files.values())).url
        for row in read_lhotse([(file.url, path) for path, file in files.items()]):
            yield first, row
        return
    for path, file in files.items():
        found = (
            read_json_lines(file.url, path)
            if kind == JSON_LINES
            else read_table(file.url, path, path_column)
        )
        for row in found:
            yield file.url, row


def _kind(values: list[str]) -> str:
    """Of what kind the inputs are. Raises UsageError where they are of several."""
    kinds = {_kind_of(value): value for value in values}
    if len(kinds) > 1:
        raise UsageError(
            f"the inputs are of several kinds: {', '.join(f'{v} ({k})' for k, v in kinds.items())}",
            "ingest one after the other, or name the format",
            argument="format",
        )
    return next(iter(kinds))


def _kind_of(value: str) -> str:
    fs, path = filesystem(value)
    if not has_magic(path) and fs.exists(f"{path.rstrip('/')}/{WAVS}"):
        return KALDI
    named = _kind_of_name(value)
    if named is None:
        _, files = find_files([value], ("",), LeftOut(unusable=[]))
        kinds = {_kind_of_name(name) for name in files}
        sound = any(name.lower().endswith(SOUNDS) for name in files)
        # Tars of an earlier ingest have Parquet reports beside them.
        found = [kind for kind in (TAR, PARQUET) if kind in kinds]
        if found and sound:
            raise UsageError(
                f"it holds audio files and {'tars' if TAR in kinds else 'Parquet tables'}",
                "name the format",
                value=value,
                argument="format",
            )
        return found[0] if found else AUDIO
    if named == JSON_LINES:
        _, files = find_files([value], ENDINGS[JSON_LINES])
        return LHOTSE if _is_lhotse(next(iter(files.values())).url) else JSON_LINES
    return named


def _kind_of_name(name: str) -> str | None:
    endings = ((kind, ending) for kind, each in ENDINGS.items() for ending in each)
    return next((kind for kind, ending in endings if name.lower().endswith(ending)), None)


def _is_lhotse(url: str) -> bool:
    """Whether the first line of a manifest is lhotse's."""
    _, line = next(numbered_lines(url), (0, ""))
    value = json_object(line)
    return value is not None and is_lhotse(value)


def _tables_or_tars(
    values: list[str], kind: str, audio_root: str | None
) -> tuple[list[SourceFile], LeftOut]:
    """Each file a source; the keys of its samples begin with its name. And what is left out."""
    left_out = LeftOut(unusable=[])
    root, files = find_files(values, ENDINGS[kind], left_out)
    sources = []
    for path, file in files.items():
        stem = next(path[: -len(each)] for each in ENDINGS[kind] if path.lower().endswith(each))
        sources.append(
            SourceFile(
                kind=kind,
                path=path,
                url=file.url,
                size=file.size,
                version=file.version,
                prefix=key_of(stem) if len(files) > 1 else "",
                audio_root=audio_root,
            )
        )
    for path, url in unusable_below(left_out, root, ENDINGS[kind]):
        sources.append(SourceFile(kind=kind, path=path, url=url, size=-1, problem=MISSING_FILE))
    # As with manifests, what has other endings is not counted.
    return sources, LeftOut(unusable=left_out.unusable)
