"""Features to train a codebook on: an even sample over all shards, of bounded size.

Each shard task keeps a reservoir of small pieces of utterances, those with the lowest of random
ranks (Efraimidis and Spirakis 2006, all weights equal). A piece is drawn before it is encoded, so
that of a long shard only what enters the reservoir is encoded: a thousand frames out of ten hours
cost minutes of encoding, not hours.
"""

import heapq
import zlib
from collections import Counter

import numpy as np
import ray
from ray.actor import ActorHandle

from pipeline.cluster.dispatch import Dispatcher, encode_all
from pipeline.cluster.progress import ShardProgress
from pipeline.settings import BatchLimits
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE
from tokenizer.audio.windows import Windowing

# Frames drawn together from one window: a second's worth, from all over it.
PIECE_FRAMES = 50


class Reservoir:
    """Pieces of a stream of unknown length, each as likely to be kept as any other.

    Every piece draws a random rank, and those of lowest rank stay, as many as fit. One that ranks
    above any piece dropped before is not taken, though there may be room: room comes by the way.
    """

    def __init__(self, max_frames: int, seed: int | list[int]) -> None:
        """max_frames: at most this many are kept, and no more than a piece fewer if there are."""
        self.max_frames = max_frames
        self.random = np.random.default_rng(seed)
        self.ranks: list[tuple[float, int, int]] = []  # a heap: (-rank, number, frames)
        self.lowest_dropped = 1.0
        self.frames = 0
        self.drawn = 0
        self.kept: dict[int, np.ndarray | None] = {}

    def draw(self, frames: int) -> list[tuple[int, np.ndarray]]:
        """Split a window's frames at random into pieces; (number, frames) of those that enter."""
        entering = []
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
            entering.append((number, piece))
            while self.frames > self.max_frames:
                rank, number, dropped = heapq.heappop(self.ranks)
                self.lowest_dropped = -rank
                self.frames -= dropped
                del self.kept[number]
        return [(number, piece) for number, piece in entering if number in self.kept]

    def put(self, number: int, features: np.ndarray) -> None:
        """Give a piece its features, unless it has been dropped since; any order will do."""
        if number in self.kept:
            self.kept[number] = features

    def features(self) -> np.ndarray | None:
        """(n, D) kept features in the order of the stream, or None if there are none."""
        return np.concatenate(list(self.kept.values())) if self.kept else None


def sample_features(
    shard: Shard,
    max_frames: int,
    seed: int,
    windowing: Windowing,
    batching: BatchLimits,
    encoders: list[ActorHandle],
    in_flight: int,
    first_encoder: int,
    board: ActorHandle,
) -> tuple[np.ndarray | None, Counter]:
    """At most `max_frames` features of one shard, (n, D) fp32, drawn evenly from all its frames.

    Runs as a Ray task. Also returns how many samples were rejected, by reason.
    """
    # The name is part of the seed: shards draw differently, and the same way in every run.
    reservoir = Reservoir(max_frames, seed=[seed, zlib.crc32(shard.name.encode())])
    progress = ShardProgress(board, shard.name)
    rejected = Counter()
    with open_shard(shard) as stream:

        def windows():
            for _, utterance, reason in read_utterances(stream, windowing.samples):
                if reason:
                    rejected[reason] += 1
                    continue
                progress.seconds_read += utterance.samples / SAMPLE_RATE
                plan = windowing.plan(utterance.num_frames)
                for window, wave in zip(plan, windowing.cut(utterance, plan), strict=True):
                    entering = reservoir.draw(window.keep_to - window.keep_from)
                    if entering:
                        yield (window, entering), wave
                    else:
                        progress.advance(
                            stream.bytes_read,
                            (window.keep_to - window.keep_from) / FRAMES_PER_SECOND,
                        )

        dispatcher = Dispatcher(encoders, "features", limit=in_flight, start=first_encoder)
        for (window, entering), features in encode_all(windows(), dispatcher, batching):
            kept = features[window.kept]
            for number, frames in entering:
                reservoir.put(number, kept[frames])
            progress.advance(stream.bytes_read, len(kept) / FRAMES_PER_SECOND)
    progress.finish(shard.size)
    return reservoir.features(), rejected


sample_features_task = ray.remote(sample_features)
