"""Audio shards, with labels if there are any → rows of equal length to train on, without end.

A row is filled with pieces of several utterances from a shuffle buffer, so nothing is padded, and
half-second commands cost no more than long readings. The labels are token shards that tokenizing
the same audio shards gives, one of the same name for each.

Shards are read in segments: some shards from their first to their last utterance, through a shuffle
buffer of their own. A pass takes every utterance once, and a training that is killed finds its
place again by reading at most one segment's audio.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.settings import CropSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.augmentation import change_speed, channel, mix, normalize, room
from tokenizer.audio.frames import (
    FRAMES_PER_SECOND,
    RECEPTIVE_FIELD,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
    num_frames,
)
from tokenizer.encoder.span_mask import span_mask
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_folder import read_shard

# Pieces in the shuffle buffer: in rows of three seconds, under an hour of audio and 100 MB.
BUFFER_PIECES = 1000
# A segment opens no more shards after this many pieces. It is not large, as a training that
# continues after a kill first reads up to a segment again.
SEGMENT_PIECES = 4000
# Shards read side by side, so that neighbours in a row are of different speakers.
SHARDS_AT_ONCE = 4
# Of a longer file only this much is read: an hour-long recording must not fill the memory.
LONGEST_SECONDS = 120
# A shorter piece has too little around it to be predicted from.
SHORTEST_FRAMES = 10
# Samples after a row's end that its last frame covers.
TAIL_SAMPLES = RECEPTIVE_FIELD - SAMPLES_PER_FRAME

# CropSettings that leave the sound as it is.
UNCHANGED_SOUND = {"speed": 0.0, "rooms": 0.0, "mixing": 0.0, "noise": 0.0, "channels": 0.0}

# What random numbers are for: the order of shards, a segment's pieces, a batch.
_ORDER, _PIECES, _BATCH = range(3)

# A wave, and the label of each of its frames.
Piece = tuple[np.ndarray, np.ndarray]
# Waves (B, n), mask (B, T) and labels (B, T).
Batch = tuple[Tensor, Tensor, Tensor]
# Where a reader is: shards before its segment, and pieces that it took from the segment.
Position = tuple[int, int]


class Crops:
    """Batches of crops; they depend on the seed, their number and the number of readers alone."""

    def __init__(
        self,
        shards: list[Shard],
        labels: Folder | None,
        *,
        noises: list[Shard],
        settings: CropSettings,
        seed: list[int],
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        """labels: the output of tokenizing `shards`; None gives zeros. noises: audio shards.

        seed: numbers that no other stream of the run has: its seed, the stage, the process.
        sample_rate: of the waves, whole samples a frame; another one than 16 kHz only with
        UNCHANGED_SOUND.
        """
        self.shards, self.labels, self.noises = shards, labels, noises
        self.settings, self.seed = settings, seed
        self.sample_rate, self.samples_per_frame = sample_rate, sample_rate // FRAMES_PER_SECOND

    def batches(self) -> Iterator[Batch]:
        """All batches, for one reader."""
        return (batch for _, batch in self.read(0, 1, position=(0, 0)))

    def read(
        self, first: int, every: int, *, position: Position
    ) -> Iterator[tuple[Position, Batch]]:
        """Batches `first`, `first` + `every` and so on, each with the reader's position after it.

        every: the number of readers. position: of this one, before batch `first`.
        """
        noises = [wave for shard in self.noises for wave in _waves(shard)]
        pieces = _PieceReader(self, first % every, position)
        for number in itertools.count(first, every):
            waves, labels = self._rows(pieces)
            yield pieces.position, self._batch(number, waves, labels=labels, noises=noises)

    def _rows(self, pieces: Iterator[Piece]) -> Piece:
        """(B, n) waves and (B, T) labels of the next pieces."""
        settings = self.settings
        waves = np.zeros((settings.rows, settings.frames * self.samples_per_frame), np.float32)
        labels = np.zeros((settings.rows, settings.frames), np.int64)
        for wave, row_labels in zip(waves, labels):
            _fill(wave, row_labels, pieces)
        return waves, labels

    def _batch(
        self, number: int, waves: np.ndarray, *, labels: np.ndarray, noises: list[np.ndarray]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows as a model gets them: changed by rooms, noises and so on, and with a mask."""
        random, settings = np.random.default_rng([*self.seed, _BATCH, number]), self.settings
        changed = np.stack(
            [self._augment(waves, row, noises=noises, random=random) for row in range(len(waves))]
        )
        tail = TAIL_SAMPLES * self.sample_rate // SAMPLE_RATE
        changed = np.pad(changed, ((0, 0), (0, tail)))
        masked = span_mask(
            labels.shape, settings.mask_share, span=settings.mask_span, random=random
        )
        return torch.from_numpy(changed), torch.from_numpy(masked), torch.from_numpy(labels)

    def labelled(self, shard: Shard) -> Iterator[Piece]:
        """Each utterance of a shard, normalised, with its labels."""
        labels = None if self.labels is None else _labels(self.labels, shard)
        with open_shard(shard) as stream:
            for sample, utterance, _ in read_utterances(stream, LONGEST_SECONDS * SAMPLE_RATE):
                if utterance is None or (labels is not None and sample.key not in labels):
                    continue
                longest, blocks = (
                    LONGEST_SECONDS * self.sample_rate,
                    utterance.blocks(self.sample_rate),
                )
                wave = normalize(np.concatenate(list(_first(blocks, longest))))
                if labels is None:
                    frames = num_frames(len(wave) * SAMPLE_RATE // self.sample_rate)
                    yield wave, np.zeros(frames, np.int64)
                else:
                    yield wave, labels[sample.key]

    def cut(
        self, wave: np.ndarray, labels: np.ndarray, random: np.random.Generator
    ) -> Iterator[Piece]:
        """An utterance, at a random speed, as pieces of at most a row."""
        settings = self.settings
        if settings.speed:
            span = np.log1p(settings.speed)
            wave, labels = change_speed(wave, labels, float(np.exp(random.uniform(-span, span))))
        each = self.samples_per_frame
        frames = min(len(labels), len(wave) // each)
        row = settings.frames
        start = -int(random.integers(row)) if frames > row else 0
        for first in range(start, frames, row):
            begin, end = max(0, first), min(frames, first + row)
            if end - begin >= SHORTEST_FRAMES:
                yield wave[begin * each : end * each].astype(np.float16), labels[begin:end]

    def _augment(
        self, waves: np.ndarray, row: int, *, noises: list[np.ndarray], random: np.random.Generator
    ) -> np.ndarray:
        """One of the waves (B, n) with room, another speaker or noise, and channel at random."""
        wave, settings = waves[row], self.settings
        if random.random() < settings.rooms:
            wave = room(wave, random.uniform(0.15, 0.6), random)
        draw = random.random()
        if draw < settings.mixing and len(waves) > 1:
            other = waves[(row + int(random.integers(1, len(waves)))) % len(waves)]
            wave = mix(wave, other, ratio_db=random.uniform(-5, 5), longest=0.5, random=random)
        elif draw < settings.mixing + settings.noise and noises:
            noise = noises[int(random.integers(len(noises)))]
            wave = mix(wave, noise, ratio_db=random.uniform(-5, 20), longest=1.0, random=random)
        if random.random() < settings.channels:
            wave = channel(wave, random)
        return normalize(wave)


def _labels(folder: Folder, shard: Shard) -> dict[str, np.ndarray]:
    utterances = read_shard(folder, shard.name, with_json=False)
    return {key: tokens.astype(np.int64) for key, tokens, _ in utterances}


def _first(blocks: Iterator[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    left = samples
    for block in blocks:
        yield block[:left]
        left -= len(block)
        if left <= 0:
            return


def _waves(shard: Shard) -> Iterator[np.ndarray]:
    with open_shard(shard) as stream:
        for _, utterance, _ in read_utterances(stream, LONGEST_SECONDS * SAMPLE_RATE):
            if utterance is not None and utterance.waveform is not None:
                yield normalize(utterance.waveform)


def _fill(wave: np.ndarray, labels: np.ndarray, pieces: Iterator[Piece]) -> None:
    """Fill a row with pieces, end to end; the last one is cut where the row ends."""
    filled, each = 0, len(wave) // len(labels)
    while filled < len(labels):
        piece, piece_labels = next(pieces)
        count = min(len(piece_labels), len(labels) - filled)
        wave[filled * each : (filled + count) * each] = piece[: count * each]
        labels[filled : filled + count] = piece_labels[:count]
        filled += count


class _PieceReader:
    """One reader's pieces in random order, pass after pass, and its position after the last one."""

    def __init__(self, crops: Crops, reader: int, position: Position) -> None:
        self.crops, self.reader = crops, reader
        self.first_shard, taken = position
        self._begin_segment()
        for _ in range(taken):
            next(self)

    @property
    def position(self) -> Position:
        """Continue from here."""
        return self.first_shard, self.taken

    def __iter__(self) -> "_PieceReader":
        return self

    def __next__(self) -> Piece:
        while (piece := next(self.pieces, None)) is None:
            self.first_shard += self.opened
            self._begin_segment()
        self.taken += 1
        return piece

    def _begin_segment(self) -> None:
        self.opened = self.taken = 0
        random = self._random(_PIECES, self.first_shard)
        self.pieces = _shuffled(self._segment(random), random)

    def _segment(self, random: np.random.Generator) -> Iterator[Piece]:
        """Pieces of at most a row, from a few shards in turn; each shard is read to its end."""
        reading: list[Iterator[Piece]] = []
        found = 0
        while True:
            while len(reading) < SHARDS_AT_ONCE and found < SEGMENT_PIECES:
                if not found and self.opened > len(self.crops.shards) + SHARDS_AT_ONCE:
                    seconds = SHORTEST_FRAMES / FRAMES_PER_SECOND
                    raise ValueError(f"no utterance of the input has {seconds} s and labels")
                reading.append(self.crops.labelled(self._next_shard()))
            if not reading:
                return
            turn = int(random.integers(len(reading)))
            utterance = next(reading[turn], None)
            if utterance is None:
                reading.pop(turn)
                continue
            for piece in self.crops.cut(*utterance, random):
                found += 1
                yield piece

    def _next_shard(self) -> Shard:
        shards = self.crops.shards
        number, place = divmod(self.first_shard + self.opened, len(shards))
        self.opened += 1
        return shards[self._random(_ORDER, number).permutation(len(shards))[place]]

    def _random(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([*self.crops.seed, purpose, self.reader, number])


def _shuffled(pieces: Iterator[Piece], random: np.random.Generator) -> Iterator[Piece]:
    """Pieces in random order, through a buffer that is filled before the first is drawn."""
    buffer = list(itertools.islice(pieces, BUFFER_PIECES))
    for piece in pieces:
        place = int(random.integers(len(buffer)))
        yield buffer[place]
        buffer[place] = piece
    for place in random.permutation(len(buffer)):
        yield buffer[place]
