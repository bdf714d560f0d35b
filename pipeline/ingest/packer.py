"""Recordings → samples in shards, and the rows that account for them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.ingest.cutting.cut import Segmenter, cut
from pipeline.ingest.cutting.piece import Piece
from pipeline.ingest.cutting.spans import RecordingSpans
from pipeline.ingest.readers.recordings import OpenRecording
from pipeline.ingest.report import SAMPLE, SOURCE, IngestReport
from pipeline.ingest.settings import MIX, IngestSettings
from pipeline.ingest.shard_writer import Member, ShardWriter
from pipeline.ingest.sources import AUDIO, DUPLICATE_KEY, Entry, SourceFile, as_json
from pipeline.shards.metadata import Metadata
from tokenizer.audio.reasons import AudioError

NO_SPEECH = "no_speech"


class Packer:
    """Adds the samples of recordings to shards, and a row for each of them to the report."""

    def __init__(
        self,
        shards: ShardWriter,
        report: IngestReport,
        *,
        settings: IngestSettings,
        new_segmenter: Callable[[], Segmenter] | None,
    ) -> None:
        self.shards, self.report = shards, report
        self.settings, self.new_segmenter = settings, new_segmenter
        # Of audio that was decoded, and of samples that were added.
        self.seconds, self.samples = 0.0, 0
        # Of tars: metadata that came after its sample, by the sample's key.
        self.late: dict[str, Metadata] = {}

    def take(self, recording: OpenRecording) -> None:
        """Add a recording's samples to the shards, and rows for it and for each of them.

        One of a table or a tar is no source, and has only the rows of its samples.
        """
        self.report.left_beside.update(recording.left_beside)
        good = []
        for entry in recording.entries:
            reason = entry.problem or recording.problem or self._left_out(recording, entry)
            if reason is None:
                good.append(entry)
            elif entry.place or recording.problem is None:
                self._row(recording, entry, reason=reason)
        if recording.audio is None:
            self._source(recording, reason=recording.problem, samples=0)
            return
        if self._as_it_is(good):
            self._copy_all(recording, good)
        else:
            self._cut(recording, tuple(good))

    def end_source(self, source: SourceFile, samples: int, reason: str | None = None) -> None:
        """Add the row of a table or a tar. samples: made of it. reason: of damage to it."""
        self.add_late()
        if source.kind != AUDIO:
            self.report.add(SOURCE, source=source.path, samples=samples, reason=reason)

    def add_late(self) -> None:
        """Append metadata that came after its sample, where its shard is open still."""
        for key, metadata in self.late.items():
            text = json.dumps(metadata.value).encode()
            if metadata.error is not None or not self.shards.add_late(key, text):
                self.report.left_beside["json"] += 1
        self.late.clear()

    def _left_out(self, recording: OpenRecording, entry: Entry) -> str | None:
        """Why an entry is left out by its metadata, or None."""
        if not self.settings.filters.need_metadata:
            return None
        return self.settings.filters.of_metadata(_metadata(recording, entry))

    def _as_it_is(self, entries: list[Entry]) -> bool:
        """Whether the recording is copied without being decoded."""
        settings = self.settings
        return (
            all(entry.whole for entry in entries)
            and self.new_segmenter is None
            and settings.channels == MIX
            and settings.sample_rate is None
            and not settings.filters.need_sound
            and not settings.dedup
        )

    def _copy_all(self, recording: OpenRecording, entries: list[Entry]) -> None:
        samples, reason = 0, None
        for entry in entries:
            reason = self._copy(recording, entry)
            samples += reason is None
            if entry.place:
                self._row(recording, entry, reason=reason)
        self.samples += samples
        of_file = reason if len(entries) == 1 and not entries[0].place else None
        self._source(recording, reason=of_file, samples=samples)

    def _cut(self, recording: OpenRecording, entries: tuple[Entry, ...]) -> None:
        samples, pieces, reason, end = 0, 0, None, 0.0
        beside = {kind: data for kind, data in recording.beside.items() if kind != "json"}
        # Of entries that are cut into segments, by their keys.
        spans: dict[str, RecordingSpans] = {}
        try:
            for piece in self._pieces(recording, entries):
                pieces += 1
                entry = piece.entry
                if piece.is_segment and entry.key not in spans:
                    spans[entry.key] = RecordingSpans(_metadata(recording, entry), beside)
                around = beside if piece.whole else {}
                added = self._add_piece(recording, piece, around, spans=spans.get(entry.key))
                end = max(end, added)
                samples += piece.problem is None
        except AudioError as error:
            reason = error.reason
        for each in spans.values():
            self.report.left_beside.update(each.whole)
            self.report.spans_left += each.left()
        self.seconds += end
        self.samples += samples
        if pieces and recording.is_source:
            self.report.add(SOURCE, source=recording.path, reason=reason, samples=samples)
            return
        # Of a table or a tar, what is wrong behind the last good piece needs a row too.
        reason = reason or (None if pieces else NO_SPEECH)
        for entry in entries:
            if entry.place and reason is not None:
                self._row(recording, entry, reason=reason)
        self._source(recording, reason=reason, samples=0)

    def _pieces(self, recording: OpenRecording, entries: tuple[Entry, ...]) -> Iterator[Piece]:
        assert recording.audio is not None
        make = self.new_segmenter
        return cut(recording.audio, entries, settings=self.settings, new_segmenter=make)

    def _source(self, recording: OpenRecording, **more: Any) -> None:
        """The row of a source; of a loose file it is its sample's too, and has the key."""
        if not recording.is_source:
            return
        key = None
        if len(recording.entries) == 1 and not recording.entries[0].place:
            key = recording.entries[0].key
        self.report.add(SOURCE, source=recording.path, key=key, **more)

    def _add_piece(
        self,
        recording: OpenRecording,
        piece: Piece,
        beside: dict[str, bytes],
        *,
        spans: RecordingSpans | None,
    ) -> float:
        """Add a piece's row and its sample, with what lies beside it; returns its end (s).

        spans: of the recording, where the piece is a segment of it.
        """
        start, end = piece.start / piece.rate, (piece.start + piece.samples) / piece.rate
        row = {
            "key": piece.key,
            "start_s": start,
            "end_s": end,
            "duration_s": end - start,
            "reason": piece.problem,
            "sound": piece.sound,
            **piece.values,
        }
        if piece.problem is None:
            if piece.flac is None:
                piece.problem = self._copy(recording, piece.entry)
            else:
                if spans is None:
                    metadata = _metadata(recording, piece.entry)
                else:
                    metadata, beside = spans.of_segment(piece.key, start, end)
                text = _of_piece(metadata, recording.path, piece, start=start, end=end)
                members: list[Member] = [
                    ("flac", piece.flac.file, piece.flac.size),
                    ("json", text, len(text)),
                    *((ending, data, len(data)) for ending, data in beside.items()),
                ]
                piece.problem = self._add(piece.key, members)
            row["reason"] = piece.problem
        self._row(recording, piece.entry, **row)
        return end

    def _add(self, key: str, members: list[Member]) -> str | None:
        """Append a sample; returns why it cannot be, or None."""
        if key in self.shards.names:
            return DUPLICATE_KEY
        self.shards.add(key, members)
        return None

    def _copy(self, recording: OpenRecording, entry: Entry) -> str | None:
        """Append the recording as it is, with what lies beside it; returns as `_add`."""
        assert recording.audio is not None
        recording.audio.seek(0)
        beside = dict(recording.beside)
        beside.setdefault("json", entry.metadata.encode())
        members: list[Member] = [(recording.ending, recording.audio, recording.size)]
        members += [(ending, content, len(content)) for ending, content in beside.items()]
        return self._add(entry.key, members)

    def _row(self, recording: OpenRecording, entry: Entry, **more: Any) -> None:
        row = {"source": recording.path, "place": entry.place or None, "key": entry.key, **more}
        self.report.add(SAMPLE, **row)


def _of_piece(metadata: dict, source: str, piece: Piece, *, start: float, end: float) -> bytes:
    """The json of a piece: what is known of it, and where it was cut. source: its recording."""
    cut_from = {"source": source, "start": start, "end": end}
    if piece.channel is not None:
        cut_from["channel"] = piece.channel
    # What a manifest says under these names is kept beside what is true of the piece.
    moved = {f"manifest_{name}": metadata[name] for name in cut_from if name in metadata}
    rest = {name: value for name, value in metadata.items() if name not in cut_from}
    return as_json({**rest, **moved, **cut_from}).encode()


def _metadata(recording: OpenRecording, entry: Entry) -> dict:
    """What is known of a sample: the json beside its audio, or its entry's."""
    text = recording.beside.get("json", entry.metadata.encode())
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        metadata = text.decode(errors="replace")
    return metadata if isinstance(metadata, dict) else {"json": metadata}
