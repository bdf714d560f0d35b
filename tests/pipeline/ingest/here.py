"""Ingest in this process: its tasks one after the other, without Ray."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
from conftest import Board

from pipeline.ingest.inputs import find_sources
from pipeline.ingest.job import open_output, planned, segmenter_of
from pipeline.ingest.report import gather
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.shard_task import ingest_sources
from pipeline.shards.inputs import Shard
from tokenizer.storage.folder import Folder


def ingest_here(values, output: Path, *, format=None, audio_root=None, path_column=None, **more):
    """Run ingest; returns its totals."""
    settings = IngestSettings(**{"shard_bytes": 1 << 30, **more})
    sources, _ = find_sources(
        [str(value) for value in values], format, audio_root=audio_root, path_column=path_column
    )
    folder = Folder(str(output))
    open_output(folder, sources, settings)
    for number, part in enumerate(planned(sources, settings)):
        ingest_sources(
            Shard(f"shard-{number:06d}", "", 0),
            Board(),
            output=folder.url,
            sources=part,
            settings=settings,
            new_segmenter=segmenter_of(settings),
        )
    return gather(folder)


def samples_of(output: Path) -> dict[str, dict[str, bytes]]:
    """{key: {ending: content}} of all shards, in order."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, ending = info.name.rpartition("/")[2].partition(".")
                key = info.name[: len(info.name) - len(ending) - 1]
                samples.setdefault(key, {})[ending] = tar.extractfile(info).read()
    return samples


def sound_of(sample: dict[str, bytes]) -> np.ndarray:
    """The waveform of a sample."""
    data = next(content for ending, content in sample.items() if ending in ("flac", "wav"))
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


def json_of(sample: dict[str, bytes]) -> dict:
    """The json of a sample."""
    return json.loads(sample["json"])


def rows_of(output: Path) -> list[dict]:
    """The rows of the manifest."""
    return pq.read_table(output / "manifest.parquet").to_pylist()


def reasons_of(output: Path) -> dict[str, str]:
    """{key or place: reason} of what was rejected."""
    return {row["key"] or row["source"]: row["reason"] for row in rows_of(output) if row["reason"]}
