"""Loose audio files as sources: each a sample of its own, with what lies beside it."""

import posixpath

from pipeline.ingest.sources import AUDIO, Entry, SourceFile, as_json, key_of
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
    names no audio file.
    """
    endings = tuple(f".{ending}" for ending in AUDIO_ENDINGS)
    left_out = LeftOut(unusable=[])
    _, files = find_files(values, ("",), left_out)
    sources, keys = [], set()
    taken: set[str] = set()
    for path, file in files.items():
        stem, ending = posixpath.splitext(path)
        sound = any(f"{stem}.{each}" in files for each in SOUND_ENDINGS)
        spare = sound and ending.lower()[1:] not in SOUND_ENDINGS  # a video beside its sound
        if ending.lower() not in endings or spare:
            left_out.endings[ending.lower() or "no ending"] += 1
            continue
        key = key_of(stem)
        while key in keys:  # a.wav beside a.flac
            key += f"-{ending[1:].lower()}"
        keys.add(key)
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
    return sources, left_out
