"""The task of ingest: a group of sources → audio shards and a report, the report last."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ray.actor import ActorHandle

from pipeline.ingest.cutting import Piece, Segmenter, cut
from pipeline.ingest.parquet import read_parquet
from pipeline.ingest.recordings import Recording, read_audio_file
from pipeline.ingest.report import SAMPLE, SOURCE, IngestReport
from pipeline.ingest.settings import MIX, IngestSettings
from pipeline.ingest.sources import PARQUET, TAR, Entry, Source, as_json
from pipeline.ingest.tars import read_tar
from pipeline.shards.inputs import Shard
from pipeline.shards.metadata import Metadata
from tokenizer.audio.reasons import AudioError
from tokenizer.storage.folder import Folder
from tokenizer.storage.tars import TarWriter

NO_SPEECH = "no_speech"
# An ending, its content, and its size.
Member = tuple[str, BinaryIO | bytes, int]


class _Tars:
    """The shards of one task: NAME.tar, and NAME-0001.tar and so on where one is full."""

    def __init__(self, folder: Folder, scratch: Path, *, name: str, shard_bytes: int) -> None:
        self.folder, self.path, self.task = folder, scratch / "shard.tar", name
        self.shard_bytes, self.number, self.size = shard_bytes, 0, 0
        self.tar: TarWriter | None = None
        # Of the samples in the open shard.
        self.keys: set[str] = set()

    @property
    def name(self) -> str:
        """Of the shard to which the next sample goes."""
        full = self.tar is not None and self.size >= self.shard_bytes
        number = self.number + full
        return f"{self.task}-{number:04d}" if number else self.task

    def add_late(self, name: str, content: bytes) -> None:
        """Append one member to the open shard."""
        assert self.tar is not None
        self.tar.add(name, content)
        self.size += len(content)

    def add(self, key: str, members: list[Member]) -> None:
        """Append a sample's members: (ending, file or bytes, size)."""
        if self.tar is not None and self.size >= self.shard_bytes:
            self.publish()
            self.number += 1
        if self.tar is None:
            self.tar, self.size = TarWriter(self.path), 0
        self.keys.add(key)
        for ending, content, size in members:
            name = f"{key}.{ending}"
            if isinstance(content, bytes):
                self.tar.add(name, content)
            else:
                self.tar.add_file(name, content, size)
            self.size += size

    def publish(self) -> None:
        """Publish the shard that is open, if one is."""
        if self.tar is None:
            return
        name = f"{self.task}-{self.number:04d}" if self.number else self.task
        self.tar.close()
        self.folder.publish(self.path, f"{name}.tar")
        self.tar = None
        self.keys.clear()


def ingest_sources(
    shard: Shard,
    board: ActorHandle,
    *,
    output: str,
    sources: list[Source],
    settings: IngestSettings,
    new_segmenter: Callable[[], Segmenter] | None = None,
) -> float:
    """Make the shards of a group of sources, and then their report; runs as a Ray task.

    Returns the seconds of audio that were decoded. A task that dies before its report has finished
    nothing, and one that runs twice writes the same bytes twice.
    """
    folder = Folder(output)
    report = IngestReport()
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        tars = _Tars(folder, Path(scratch), name=shard.name, shard_bytes=settings.shard_bytes)
        task = _Task(tars, report, settings, new_segmenter)
        done = 0
        for source in sources:
            for recording in _recordings(source, task):
                task.take(recording)
            task.add_late()
            done += max(source.size, 0)
            board.write.remote(shard.name, done, task.seconds)
        tars.publish()
        path = Path(scratch) / "report.parquet"
        report.write(path)
        folder.publish(path, f"reports/{shard.name}.parquet")
    return task.seconds


def _recordings(source: Source, task: "_Task") -> Iterator[Recording]:
    if source.kind == PARQUET:
        return read_parquet(source)
    if source.kind == TAR:
        return read_tar(source, task.late, task.report.left_beside)
    return read_audio_file(source)


class _Task:
    def __init__(
        self,
        tars: _Tars,
        report: IngestReport,
        settings: IngestSettings,
        new_segmenter: Callable[[], Segmenter] | None,
    ) -> None:
        self.tars, self.report = tars, report
        self.settings, self.new_segmenter = settings, new_segmenter
        self.seconds = 0.0
        # Of tars: metadata that came after its sample, by the sample's key.
        self.late: dict[str, Metadata] = {}

    def take(self, recording: Recording) -> None:
        """Add a recording's samples to the shards, and rows for it and for each of them."""
        self.report.left_beside.update(recording.left_beside)
        good = tuple(entry for entry in recording.entries if entry.problem is None)
        for entry in recording.entries:
            reason = entry.problem or recording.problem
            if reason is not None and (entry.place or recording.problem is None):
                self._row(recording, entry, reason=reason)
        if recording.audio is None:
            self._source(recording, reason=recording.problem, samples=0)
            return
        if self._as_it_is(good):
            self._copy_all(recording, good)
        else:
            self._cut(recording, good)

    def add_late(self) -> None:
        """Append metadata that came after its sample, where its shard is open still.

        Readers of these shards take json that lies apart from its audio.
        """
        for key, metadata in self.late.items():
            if key in self.tars.keys and metadata.error is None:
                text = json.dumps(metadata.value).encode()
                self.tars.add_late(f"{key}.json", text)
            else:
                self.report.left_beside["json"] += 1
        self.late.clear()

    def _as_it_is(self, entries: tuple[Entry, ...]) -> bool:
        """Whether the recording is copied without being decoded."""
        settings = self.settings
        return (
            all(entry.whole for entry in entries)
            and self.new_segmenter is None
            and settings.channels == MIX
            and settings.sample_rate is None
        )

    def _copy_all(self, recording: Recording, entries: tuple[Entry, ...]) -> None:
        shard = None
        for entry in entries:
            shard = self.tars.name
            self._copy(recording, entry, entry.key)
            if entry.place:
                self._row(recording, entry, shard=shard)
        self._source(recording, shard=shard, samples=len(entries))

    def _cut(self, recording: Recording, entries: tuple[Entry, ...]) -> None:
        assert recording.audio is not None
        samples, pieces, reason, end = 0, 0, None, 0.0
        try:
            for piece in cut(recording.audio, entries, self.settings, self.new_segmenter):
                pieces += 1
                samples += piece.problem is None
                end = max(end, self._add_piece(recording, piece))
        except AudioError as error:
            reason = error.reason
        self.seconds += end
        if pieces:
            self.report.add(SOURCE, source=recording.path, reason=reason, samples=samples)
            return
        reason = reason or NO_SPEECH
        for entry in entries:
            if entry.place:
                self._row(recording, entry, reason=reason)
        self._source(recording, reason=reason, samples=0)

    def _source(self, recording: Recording, **more: Any) -> None:
        """The row of a source; of a loose file it is its sample's too, and has the key."""
        key = None
        if len(recording.entries) == 1 and not recording.entries[0].place:
            key = recording.entries[0].key
        else:
            more.pop("shard", None)
        self.report.add(SOURCE, source=recording.path, key=key, **more)

    def _add_piece(self, recording: Recording, piece: Piece) -> float:
        """Add a piece's sample and its row; returns its end in seconds."""
        start, end = piece.start / piece.rate, (piece.start + piece.samples) / piece.rate
        row = {
            "key": piece.key,
            "start_s": start,
            "end_s": end,
            "duration_s": end - start,
            "reason": piece.problem,
        }
        if piece.problem is None:
            row["shard"] = self.tars.name
            if piece.flac is None:
                self._copy(recording, piece.entry, piece.key)
            else:
                metadata = _of_piece(recording, piece, start=start, end=end)
                members: list[Member] = [
                    ("flac", piece.flac.file, piece.flac.size),
                    ("json", metadata, len(metadata)),
                ]
                self.tars.add(piece.key, members)
        self._row(recording, piece.entry, **row)
        return end

    def _copy(self, recording: Recording, entry: Entry, key: str) -> None:
        """Append the recording as it is, with what lies beside it."""
        assert recording.audio is not None
        recording.audio.seek(0)
        beside = dict(recording.beside)
        beside.setdefault("json", entry.metadata.encode())
        members: list[Member] = [(recording.ending, recording.audio, recording.size)]
        members += [(ending, content, len(content)) for ending, content in beside.items()]
        self.tars.add(key, members)

    def _row(self, recording: Recording, entry: Entry, **more: Any) -> None:
        row = {"source": recording.path, "place": entry.place or None, "key": entry.key, **more}
        self.report.add(SAMPLE, **row)


def _of_piece(recording: Recording, piece: Piece, *, start: float, end: float) -> bytes:
    """The json of a piece: that of its recording or entry, and where it was cut."""
    text = recording.beside.get("json", piece.entry.metadata.encode())
    try:
        metadata = json.loads(text)
    except ValueError:
        metadata = {"json": text.decode(errors="replace")}
    if not isinstance(metadata, dict):
        metadata = {"json": metadata}
    cut_from = {"source": recording.path, "start": start, "end": end}
    if piece.channel is not None:
        cut_from["channel"] = piece.channel
    # What a manifest says under these names is kept beside what is true of the piece.
    moved = {f"manifest_{name}": metadata.pop(name) for name in cut_from if name in metadata}
    return as_json({**metadata, **moved, **cut_from}).encode()
