"""Loose audio files → WebDataset shards of similar size: in order, and each file's bytes as is."""

import hashlib
import json
import posixpath
import re
from dataclasses import dataclass
from typing import IO, Any, cast

import ray
from ray.actor import ActorHandle

from pipeline.cluster.connect import connect
from pipeline.cluster.run_shards import run_shards
from pipeline.shards.inputs import Shard, find_files
from pipeline.shards.listing import LeftOut
from pipeline.shards.reading import InputChanged
from pipeline.shards.samples import AUDIO_ENDINGS
from tokenizer.audio.containers.find import SOUND_ENDINGS
from tokenizer.errors import UsageError
from tokenizer.storage.file_stream import FileStream, read_whole
from tokenizer.storage.folder import Folder, filesystem
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tars import TarWriter


@dataclass(frozen=True)
class AudioFile:
    """A loose file. key: of its sample. path: below the inputs' common folder.

    metadata: URL of the .json beside it with the same name, or None.
    """

    key: str
    path: str
    url: str
    size: int
    metadata: str | None


def find_audio(values: list[str]) -> tuple[list[AudioFile], LeftOut]:
    """The audio files that the inputs name, sorted by path, each with its own key; and the rest.

    The json beside an audio file is part of neither.

    A key is the path without its ending, with other dots as "_": a sample's key ends at its first
    dot. Raises UsageError when an input names no audio file.
    """
    endings = tuple(f".{ending}" for ending in AUDIO_ENDINGS)
    left_out = LeftOut(unusable=[])
    _, files = find_files(values, ("",), left_out)
    audio, keys, taken = [], set(), set()
    for path, file in files.items():
        stem, ending = posixpath.splitext(path)
        sound = any(f"{stem}.{each}" in files for each in SOUND_ENDINGS)
        spare = sound and ending.lower()[1:] not in SOUND_ENDINGS  # a video beside its sound
        if ending.lower() not in endings or spare:
            left_out.endings[ending.lower() or "no ending"] += 1
            continue
        folder, name = posixpath.split(stem)
        key = posixpath.join(folder, re.sub(r"\.", "_", name).lstrip("_") or "_")
        while key in keys:  # a.wav beside a.flac
            key += f"-{ending[1:].lower()}"
        keys.add(key)
        beside = files.get(f"{stem}.json")
        metadata = beside.url if beside else None
        if beside and beside.url not in taken:
            taken.add(beside.url)
        audio.append(AudioFile(key, path, url=file.url, size=file.size, metadata=metadata))
    if not audio:
        raise UsageError(
            "it has no audio files",
            f"give some of {', '.join(endings)}",
            value=" ".join(values),
            argument="input",
        )
    left_out.endings[".json"] -= len(taken)
    left_out.endings = +left_out.endings
    return audio, left_out


def plan_shards(files: list[AudioFile], shard_bytes: int) -> list[list[AudioFile]]:
    """Cut the files, in order, into shards; each ends with the file that fills it."""
    shards: list[list[AudioFile]] = [[]]
    size = 0
    for file in files:
        if size >= shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(file)
        size += file.size
    return shards


def ingest(files: list[AudioFile], output: Folder, shard_bytes: int) -> dict:
    """Write shard-000000.tar and so on below `output`, where they are missing.

    Returns {"shards", "files", "bytes", "failed": {shard name: why}}. Raises UsageError when the
    output was made from other files or with another shard size.
    """
    listing = [[file.key, file.path, file.size] for file in files]
    digest = hashlib.sha256(json.dumps([listing, shard_bytes]).encode()).hexdigest()
    made_from = {"files": len(files), "shard_bytes": shard_bytes, "sha256_of_listing": digest}
    if output.claim("ingest.json", made_from) != made_from:
        raise output.refused(
            "it was made from other files or with another shard size", "give another folder"
        )
    present = set(output.names("", ".tar"))
    members = {
        f"shard-{number:06d}": part for number, part in enumerate(plan_shards(files, shard_bytes))
    }
    todo = [
        Shard(name, "", sum(file.size for file in part))
        for name, part in members.items()
        if name not in present
    ]
    failed: dict[str, str] = {}
    if todo:
        connect()

        def arguments(*, shard: Shard, **_: Any) -> dict[str, Any]:
            return {"output": output.url, "files": members[shard.name]}

        _, failed = run_shards(
            "ingest",
            todo,
            at_once=max(1, int(ray.cluster_resources().get("CPU", 1))),
            num_cpus=1,
            function=write_shard,
            arguments=arguments,
        )
        output.sweep()
    total = sum(file.size for file in files)
    return {"shards": len(members), "files": len(files), "bytes": total, "failed": failed}


def write_shard(shard: Shard, board: ActorHandle, *, output: str, files: list[AudioFile]) -> None:
    """Pack files into one tar and publish it whole; runs as a Ray task."""
    with scratch_folder() as scratch:
        path = scratch / "shard.tar"
        tar = TarWriter(path)
        for file in files:
            ending = file.path.rpartition(".")[2].lower()
            with FileStream(*filesystem(file.url)) as audio:
                if audio.size != file.size:
                    raise InputChanged(f"{audio.url} changed after it was listed")
                tar.add_file(f"{file.key}.{ending}", cast(IO[bytes], audio), file.size)
            tar.add(f"{file.key}.json", _metadata(file))
        tar.close()
        Folder(output).publish(path, f"{shard.name}.tar")
    board.write.remote(shard.name, shard.size, 0.0)


def _metadata(file: AudioFile) -> bytes:
    if file.metadata is None:
        return json.dumps({"path": file.path}).encode()
    return read_whole(*filesystem(file.metadata))
