"""Audio shards with their labels → rows of equal length to train an encoder on, for ever.

A row is filled with pieces of several utterances, drawn from a shuffle buffer: nothing is padded,
and half-second commands cost no more than long readings. The labels are token shards, which
jobs/tokenize.py's own code made of the same audio shards: one of the same name for each.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

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
from tokenizer.storage.token_shards import read_tokens

# Pieces that wait to be drawn: of rows of three seconds under an hour of audio, and 100 MB.
BUFFER_PIECES = 1000
# Shards read side by side, so that neighbours in a row are of different speakers.
SHARDS_AT_ONCE = 4
# Longer files are read up to here in one pass: an hour-long recording must not fill the memory.
LONGEST_SECONDS = 120
# A shorter piece has too little around it to be predicted from.
SHORTEST_FRAMES = 10
# What a row's last frame sees past the row's end.
TAIL_SAMPLES = RECEPTIVE_FIELD - SAMPLES_PER_FRAME


class Crops(IterableDataset):
    """Batches (waves (B, n), masked (B, T), labels (B, T)) as tensors; a new order in every pass.

    Everything drawn depends on `seed` and on which worker draws it alone.
    """

    def __init__(
        self,
        shards: list[Shard],
        labels: Folder | None,
        noises: list[Shard],
        settings: CropSettings,
        seed: list[int],
    ) -> None:
        """labels: the OUTPUT of tokenizing `shards`; None gives zeros. noises: audio shards."""
        self.shards, self.labels, self.noises = shards, labels, noises
        self.settings, self.seed = settings, seed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        random = np.random.default_rng([*self.seed, worker.id if worker else 0])
        settings = self.settings
        noises = [wave for shard in self.noises for wave in _waves(shard)]
        pieces = _shuffled(self._pieces(random), random)
        shape = settings.rows, settings.frames
        while True:
            waves = np.zeros((settings.rows, settings.frames * SAMPLES_PER_FRAME), np.float32)
            labels = np.zeros(shape, np.int64)
            for row in range(settings.rows):
                _fill(waves[row], labels[row], pieces)
            heard = np.stack(
                [self._disturb(waves, row, noises, random) for row in range(len(waves))]
            )
            heard = np.pad(heard, ((0, 0), (0, TAIL_SAMPLES)))
            masked = span_mask(shape, settings.mask_share, span=settings.mask_span, random=random)
            yield tuple(map(torch.from_numpy, (heard, masked, labels)))

    def _pieces(self, random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pieces of at most a row, from a few shards in turn, pass after pass."""
        while True:
            waiting = [self.shards[i] for i in random.permutation(len(self.shards))]
            reading, found = [], False
            while waiting or reading:
                while waiting and len(reading) < SHARDS_AT_ONCE:
                    reading.append(self._labelled(waiting.pop()))
                turn = int(random.integers(len(reading)))
                try:
                    wave, labels = next(reading[turn])
                except StopIteration:
                    reading.pop(turn)
                    continue
                for piece in self._cut(wave, labels, random):
                    found = True
                    yield piece
            if not found:
                seconds = SHORTEST_FRAMES / FRAMES_PER_SECOND
                raise ValueError(f"no utterance of the input is of {seconds} s and has labels")

    def _labelled(self, shard: Shard) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each utterance of a shard, normalised, with its labels."""
        labels = None if self.labels is None else _labels(self.labels, shard)
        with open_shard(shard) as stream:
            for sample, utterance, _ in read_utterances(stream, LONGEST_SECONDS * SAMPLE_RATE):
                if utterance is None or (labels is not None and sample.key not in labels):
                    continue
                wave = normalize(np.concatenate(list(_first(utterance.blocks()))))
                if labels is None:
                    yield wave, np.zeros(num_frames(len(wave)), np.int64)
                else:
                    yield wave, labels[sample.key]

    def _cut(
        self, wave: np.ndarray, labels: np.ndarray, random: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        settings = self.settings
        if settings.speed:
            span = np.log1p(settings.speed)
            wave, labels = change_speed(wave, labels, float(np.exp(random.uniform(-span, span))))
        frames = min(len(labels), len(wave) // SAMPLES_PER_FRAME)
        row = settings.frames
        start = -int(random.integers(row)) if frames > row else 0
        for first in range(start, frames, row):
            begin, end = max(0, first), min(frames, first + row)
            if end - begin >= SHORTEST_FRAMES:
                samples = slice(begin * SAMPLES_PER_FRAME, end * SAMPLES_PER_FRAME)
                yield wave[samples].astype(np.float16), labels[begin:end]

    def _disturb(
        self, waves: np.ndarray, row: int, noises: list[np.ndarray], random: np.random.Generator
    ) -> np.ndarray:
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
    with folder.fs.open(folder.path(f"shards/{shard.name}.tar"), "rb") as file:
        return {key: tokens.astype(np.int64) for key, tokens, _ in read_tokens(file)}


def _first(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    left = LONGEST_SECONDS * SAMPLE_RATE
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


def _shuffled(pieces: Iterator, random: np.random.Generator) -> Iterator:
    """A stream in a random order within a buffer, which is filled before the first is drawn."""
    buffer = [next(pieces) for _ in range(BUFFER_PIECES)]
    for piece in pieces:
        place = int(random.integers(len(buffer)))
        yield buffer[place]
        buffer[place] = piece


def _fill(wave: np.ndarray, labels: np.ndarray, pieces: Iterator) -> None:
    """Fill a row with pieces, end to end; the last is cut where the row ends."""
    filled = 0
    while filled < len(labels):
        piece, own = next(pieces)
        count = min(len(own), len(labels) - filled)
        start = filled * SAMPLES_PER_FRAME
        wave[start : start + count * SAMPLES_PER_FRAME] = piece[: count * SAMPLES_PER_FRAME]
        labels[filled : filled + count] = own[:count]
        filled += count
