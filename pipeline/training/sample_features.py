"""Features to train a codebook on: a sample of bounded size, of a sample of the shards.

A lake of 100,000 shards is not read for a million frames: so many shards are drawn that each kind
of speech has its share, and that they surely hold the frames. Of those all are read.

Each shard task keeps a reservoir of small pieces of utterances: every piece draws a random rank,
and those with the lowest ranks stay (Efraimidis and Spirakis 2006, all weights equal). Pieces are
drawn before encoding, and a window is encoded only if one of its pieces enters the reservoir: a
thousand frames out of ten hours cost minutes of encoding, not hours.
"""

import heapq
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import cast

import numpy as np
from ray.actor import ActorHandle

from pipeline.cluster.dispatch import Dispatcher
from pipeline.cluster.progress import ShardProgress
from pipeline.settings import BatchLimits
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE
from tokenizer.audio.windows import RawWindow, Window, Windowing

# Frames of a piece: one second's worth, taken at random from all over a window.
PIECE_FRAMES = 50
# Shards that are drawn at least, and bytes of them for each frame of the sample: 20 ms take 3,840
# bytes in the largest usual form, 16 bits of two channels at 48 kHz.
LEAST_SHARDS, BYTES_PER_FRAME = 256, 4000


def draw_shards(shards: list[Shard], max_frames: int, seed: int) -> list[Shard]:
    """The shards of which a sample of max_frames is taken, each as likely as any other, by name.

    All of them, where there are few. The same shards, frames and seed give the same draw, and more
    frames the same shards and others.
    """
    drawn: list[Shard] = []
    size = 0
    for number in np.random.default_rng(seed).permutation(len(shards)):
        if len(drawn) >= LEAST_SHARDS and size >= BYTES_PER_FRAME * max_frames:
            break
        drawn.append(shards[number])
        size += shards[number].size
    return sorted(drawn, key=lambda shard: shard.name)


class Reservoir:
    """A uniform random sample of the pieces of a stream of unknown length.

    Every piece draws a random rank, and the pieces with the lowest ranks that fit are kept. A piece
    with a higher rank than one that was dropped is not kept, even where there is room: pieces
    differ in size, and late or short ones would be kept too often.
    """

    def __init__(self, max_frames: int, seed: int | list[int]) -> None:
        """max_frames: the most to keep. Of a longer stream at most a piece fewer are kept."""
        self.max_frames = max_frames
        self.random = np.random.default_rng(seed)
        self.ranks: list[tuple[float, int, int]] = []  # a heap: (-rank, number, frames)
        self.lowest_dropped = 1.0
        self.frames = 0
        self.drawn = 0
        self.kept: dict[int, np.ndarray | None] = {}

    def draw(self, frames: int) -> list[tuple[int, np.ndarray]]:
        """Split a window's frames at random into pieces.

        Returns (piece's number, its frames counted from the window's start) of those that enter the
        sample. A later piece may replace one.
        """
        entered = []
        shuffled = self.random.permutation(frames)
        size = min(PIECE_FRAMES, self.max_frames)
        for first in range(0, frames, size):
            number, rank = self.drawn, self.random.random()
            self.drawn += 1
            if rank >= self.lowest_dropped:
                continue
            piece = np.sort(shuffled[first : first + size])
            heapq.heappush(self.ranks, (-rank, number, len(piece)))
            self.kept[number] = None
            self.frames += len(piece)
            entered.append((number, piece))
            while self.frames > self.max_frames:
                rank, number, dropped = heapq.heappop(self.ranks)
                self.lowest_dropped = -rank
                self.frames -= dropped
                del self.kept[number]
        return [(number, piece) for number, piece in entered if number in self.kept]

    def put(self, number: int, features: np.ndarray) -> None:
        """Set a piece's features, in any order; ignored if it has been dropped since."""
        if number in self.kept:
            self.kept[number] = features

    def features(self) -> np.ndarray | None:
        """(n, D) kept features in the order of the stream, or None if there are none."""
        parts = cast(list[np.ndarray], list(self.kept.values()))
        return np.concatenate(parts) if parts else None


def sample_features(
    shard: Shard,
    board: ActorHandle,
    *,
    max_frames: int,
    seed: int,
    windowing: Windowing,
    limits: BatchLimits,
    max_duration: float | None,
    dispatcher: Dispatcher,
) -> tuple[np.ndarray | None, Counter[str]]:
    """At most `max_frames` features of one shard, (n, D) fp32, drawn evenly from all its frames.

    Runs as a Ray task. Also returns how many samples were rejected, by reason.
    """
    # The name is part of the seed: shards draw differently, and the same way in every run.
    reservoir = Reservoir(max_frames, seed=[seed, zlib.crc32(shard.name.encode())])
    progress = ShardProgress(board, shard.name)
    rejected: Counter[str] = Counter()
    with open_shard(shard) as stream:

        def windows() -> Iterator[tuple[tuple[Window, list[tuple[int, np.ndarray]]], RawWindow]]:
            utterances = read_utterances(
                stream, windowing.samples, max_duration=max_duration, keep_int16=True
            )
            for _, utterance, reason in utterances:
                if utterance is None:
                    rejected[str(reason)] += 1
                    continue
                progress.seconds_read += utterance.samples / SAMPLE_RATE
                plan = windowing.plan_samples(utterance.samples)
                for window, wave in zip(plan, windowing.cut_raw(utterance, plan), strict=True):
                    kept_frames = window.keep_to - window.keep_from
                    pieces = reservoir.draw(kept_frames)
                    if pieces:
                        yield (window, pieces), wave
                    else:
                        progress.advance(stream.bytes_read, kept_frames / FRAMES_PER_SECOND)

        for (window, pieces), features in dispatcher.encode_all(windows(), limits):
            kept = features[window.kept]
            for number, frames in pieces:
                reservoir.put(number, kept[frames])
            progress.advance(stream.bytes_read, len(kept) / FRAMES_PER_SECOND)
    progress.finish(shard.size)
    return reservoir.features(), rejected
