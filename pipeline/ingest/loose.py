"""Loose audio files as sources: each a sample of its own, with what lies beside it."""

import posixpath
from collections.abc import Iterator

from pipeline.ingest.sources import AUDIO, MISSING_FILE, Entry, SourceFile, as_json, key_of
from pipeline.shards.inputs import find_files
from pipeline.shards.listing import LeftOut
from pipeline.shards.members import AUDIO_ENDINGS
from tokenizer.audio.containers.find import SOUND_ENDINGS
from tokenizer.errors import UsageError

# What travels with a recording of the same name: transcripts, alignments, labels.
BESIDE_ENDINGS = ("json", "txt", "lab", "TextGrid", "ctm", "cls")


def find_loose(values: list[str]) -> tuple[list[SourceFile], LeftOut]:
    """The audio files that the inputs name, sorted by path, each with its own key; and what else
    was found there and is left out. What lies beside an audio file goes with it.

    A key is the path without its ending, with other dots as "_". Raises UsageError when an input
    names no audio file. One that is a dead link, or no regular file, has its problem.
    """
    endings = tuple(f".{ending}" for ending in AUDIO_ENDINGS)
    left_out = LeftOut(unusable=[])
    root, files = find_files(values, ("",), left_out)
    sources: list[SourceFile] = []
    keys: set[str] = set()
    taken: set[str] = set()
    for path, file in files.items():
        stem, ending = posixpath.splitext(path)
        sound = any(f"{stem}.{each}" in files for each in SOUND_ENDINGS)
        spare = sound and ending.lower()[1:] not in SOUND_ENDINGS  # a video beside its sound
        if ending.lower() not in endings or spare:
            left_out.endings[ending.lower() or "no ending"] += 1
            continue
        key = _new_key(path, keys)
        beside = {
            each: files[f"{stem}.{each}"].url
            for each in BESIDE_ENDINGS
            if f"{stem}.{each}" in files
        }
        for each in beside:
            if f"{stem}.{each}" not in taken:
                taken.add(f"{stem}.{each}")
                left_out.endings[f".{each.lower()}"] -= 1
        entry = Entry(key=key, metadata=as_json({"path": path}))
        sources.append(
            SourceFile(
                kind=AUDIO, path=path, url=file.url, size=file.size, version=file.version,
                entries=(entry,), beside=beside,
            )
        )  # fmt: skip
    if not sources:
        raise UsageError(
            "it has no audio files",
            f"give some of {', '.join(endings)}",
            value=" ".join(values),
            argument="input",
        )
    left_out.endings = +left_out.endings
    dead = [
        SourceFile(
            kind=AUDIO, path=path, url=url, size=-1, problem=MISSING_FILE,
            entries=(Entry(key=_new_key(path, keys), problem=MISSING_FILE),),
        )
        for path, url in unusable_below(left_out, root, endings)
    ]  # fmt: skip
    return sources + dead, left_out


def _new_key(path: str, keys: set[str]) -> str:
    """The key of a file, which is put among the others."""
    stem, ending = posixpath.splitext(path)
    key = key_of(stem)
    while key in keys:  # a.wav beside a.flac
        key += f"-{ending[1:].lower()}"
    keys.add(key)
    return key


def unusable_below(
    left_out: LeftOut, root: str, endings: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """(path below the inputs' common folder, path) of what has one of the endings and is unusable.

    root: the folder's URL.
    """
    above = root.removeprefix("file://").rstrip("/") + "/"
    for path in sorted(left_out.unusable or []):
        if path.lower().endswith(endings) and path.startswith(above):
            yield path.removeprefix(above), path
