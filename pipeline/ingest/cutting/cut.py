"""A recording, decoded once from start to end, → the pieces that are wanted of it.

What is kept in memory are the samples that a piece may still need: a recording of ten hours takes
no more than one of an hour.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Protocol

import numpy as np
import soxr

from pipeline.ingest.cutting.flac import FlacWriter
from pipeline.ingest.cutting.piece import Piece
from pipeline.ingest.settings import FIRST, SPLIT, IngestSettings
from pipeline.ingest.sources import Entry
from tokenizer.audio.decoding import decode_channels
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.mixing import mixed_down
from tokenizer.audio.reasons import EMPTY, AudioError
from tokenizer.audio.resampling import resample

PAST_END = "past_end"
SHORT_SEGMENT = "short_segment"
# Manifests round: an end this many seconds behind the recording's is taken for its end.
END_SLACK = 0.1
ROUNDING = 1e-3


class Segmenter(Protocol):
    """Decides, while a recording is decoded, where it is cut. All times are in seconds."""

    @property
    def undecided_from(self) -> float:
        """Nothing before it is wanted any more."""

    def feed(self, block: np.ndarray) -> Iterable[tuple[float, float]]:
        """More of the recording, (n,) float32 at 16 kHz → segments (start, end) that are certain
        now, in order.
        """

    def finish(self) -> Iterable[tuple[float, float]]:
        """The end of the recording → the segments that were left."""


class _Track:
    """What a segmenter cuts from one channel, or from the mean of all."""

    def __init__(
        self, key: str, entry: Entry, channel: int | None, *, segmenter: Segmenter, rate: int
    ) -> None:
        self.key, self.entry, self.channel = key, entry, channel
        self.segmenter = segmenter
        self._resampled = None
        if rate != SAMPLE_RATE:
            self._resampled = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")

    def feed(self, block: np.ndarray) -> Iterable[tuple[float, float]]:
        """(n, channels) at the recording's rate → segments that are certain now."""
        block = np.nan_to_num(block, posinf=0.0, neginf=0.0)
        mono = mixed_down(block) if self.channel is None else block[:, self.channel]
        if self._resampled is not None:
            mono = self._resampled.resample_chunk(np.ascontiguousarray(mono))
        return self.segmenter.feed(mono)

    def finish(self) -> Iterator[tuple[float, float]]:
        """The end of the recording → the segments that were left."""
        if self._resampled is not None:
            rest = self._resampled.resample_chunk(np.empty(0, np.float32), last=True)
            yield from self.segmenter.feed(rest)
        yield from self.segmenter.finish()


def cut(
    audio: BinaryIO,
    entries: tuple[Entry, ...],
    *,
    settings: IngestSettings,
    new_segmenter: Callable[[], Segmenter] | None = None,
) -> Iterator[Piece]:
    """Decode a recording and give its pieces as they are complete, good or with their problem.

    new_segmenter: makes what cuts a recording of which all is wanted; None leaves it whole. A piece
    can be used until the next one is asked for. Where the audio is damaged, the pieces before the
    damage are good. Raises AudioError, at the end, for what is wrong with the recording.
    """
    cutting = _Cutting(entries, settings, new_segmenter)
    try:
        yield from cutting.run(audio)
    finally:
        cutting.close()


class _Cutting:
    def __init__(
        self,
        entries: tuple[Entry, ...],
        settings: IngestSettings,
        new_segmenter: Callable[[], Segmenter] | None,
    ) -> None:
        self.entries, self.settings, self.new_segmenter = entries, settings, new_segmenter
        self.rate, self.channels = 0, 0
        # Samples decoded so far, and the last of them: (place of the first, (n, channels)).
        self.position = 0
        self.history: deque[tuple[int, np.ndarray]] = deque()
        # Pieces in the order of their starts that no sample has reached, and those that are open.
        self.waiting: list[tuple[int, int, Piece]] = []
        self.open: list[Piece] = []
        self.tracks: list[_Track] = []
        self.count = 0

    def run(self, audio: BinaryIO) -> Iterator[Piece]:
        damage: AudioError | None = None
        try:
            blocks, self.rate = decode_channels(audio)
            if self.settings.sample_rate:
                blocks = resample(blocks, self.rate, self.settings.sample_rate)
                self.rate = self.settings.sample_rate
            for block in blocks:
                if not self.channels:
                    self._begin(block.shape[1])
                yield from self._advance(block)
            if not self.position:
                raise AudioError(EMPTY)
            for track in self.tracks:
                self._announce(track, track.finish())
            yield from self._fill()
        except AudioError as error:
            damage = error
        for piece in [*self.open, *(piece for _, _, piece in sorted(self.waiting))]:
            yield self._last(piece, damage)
            piece.close()
        self.open, self.waiting = [], []
        if damage is not None:
            raise damage

    def close(self) -> None:
        """Let go of what is open."""
        for piece in [*self.open, *(piece for _, _, piece in self.waiting)]:
            piece.close()

    def _begin(self, channels: int) -> None:
        """The first block has come, and tells how many channels there are."""
        self.channels = channels
        for entry in self.entries:
            for key, channel in self._channels(entry):
                if self.new_segmenter is not None and entry.all_of_it:
                    segmenter = self.new_segmenter()
                    self.tracks.append(
                        _Track(key, entry, channel, segmenter=segmenter, rate=self.rate)
                    )
                    continue
                end = None if entry.end is None else round(entry.end * self.rate)
                start = round(entry.start * self.rate)
                self._add(key, entry, start=start, end=end, channel=channel)

    def _channels(self, entry: Entry) -> Iterator[tuple[str, int | None]]:
        """(key, channel) of each sample that an entry becomes."""
        if entry.channel is not None:
            yield entry.key, entry.channel
        elif self.settings.channels == SPLIT and self.channels > 1:
            yield from ((f"{entry.key}-ch{each}", each) for each in range(self.channels))
        else:
            first = self.settings.channels == FIRST and self.channels > 1
            yield entry.key, 0 if first else None

    def _add(
        self, key: str, entry: Entry, *, start: int, end: int | None, channel: int | None
    ) -> Piece:
        piece = Piece(
            key,
            entry,
            rate=self.rate,
            start=start,
            end=end,
            channel=channel,
            filters=self.settings.filters,
            hashed=self.settings.dedup,
        )
        settings = self.settings
        whole = entry.whole and piece.start == 0 and piece.end is None
        copied = whole and piece.channel is None and settings.sample_rate is None
        if not copied:
            piece.flac = FlacWriter(self.rate)
        heapq.heappush(self.waiting, (piece.start, self.count, piece))
        self.count += 1
        return piece

    def _announce(self, track: _Track, segments: Iterable[tuple[float, float]]) -> None:
        for start, decided in segments:
            # A segmenter's last frame may reach past the recording's end.
            end = min(decided, self.position / self.rate)
            key = f"{track.key}-{round(start * 1000):08d}-{round(end * 1000):08d}"
            first, last = round(start * self.rate), round(end * self.rate)
            piece = self._add(key, track.entry, start=first, end=last, channel=track.channel)
            if end - start < self.settings.min_seconds - ROUNDING:
                piece.reject(SHORT_SEGMENT)

    def _advance(self, block: np.ndarray) -> Iterator[Piece]:
        self.history.append((self.position, block))
        self.position += len(block)
        for track in self.tracks:
            self._announce(track, track.feed(block))
        yield from self._fill()
        needed = min([self.position, *(self._undecided(track) for track in self.tracks)])
        while self.history and self.history[0][0] + len(self.history[0][1]) <= needed:
            self.history.popleft()

    def _undecided(self, track: _Track) -> int:
        return int(track.segmenter.undecided_from * self.rate)

    def _fill(self) -> Iterator[Piece]:
        """Give the open pieces what has come; yields those that are complete by it."""
        while self.waiting and self.waiting[0][0] < self.position:
            self.open.append(heapq.heappop(self.waiting)[2])
        for piece in list(self.open):
            stop = self.position if piece.end is None else min(piece.end, self.position)
            for part in self._between(piece.start + piece.samples, stop):
                piece.add(part)
            if piece.end is not None and piece.start + piece.samples >= piece.end:
                self.open.remove(piece)
                piece.finish()
                yield piece
                piece.close()

    def _between(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for first, block in self.history:
            if first < stop and first + len(block) > start:
                yield block[max(0, start - first) : stop - first]

    def _last(self, piece: Piece, damage: AudioError | None) -> Piece:
        """A piece that the end of the recording has ended, or that lies behind it."""
        reached = piece.samples or piece.start < self.position
        slack = round(END_SLACK * self.rate)
        if damage is not None:
            piece.reject(damage.reason)
        elif not reached or (piece.end is not None and piece.end > self.position + slack):
            piece.reject(PAST_END)
        piece.finish()
        return piece
