"""Features to train a codebook on: an even sample over all shards, of bounded size.

Each shard task keeps a reservoir (Vitter 1985, Algorithm R) of small pieces of utterances. A piece
is drawn before it is encoded, so that of a long shard only what enters the reservoir is encoded: a
thousand frames out of ten hours cost minutes of encoding, not hours.
"""

import zlib
from collections import Counter

import numpy as np
import ray
from ray.actor import ActorHandle

from pipeline.dispatch import Batching, Dispatcher, encode_all
from pipeline.progress import ShardProgress
from pipeline.reading import open_shard, read_utterances
from pipeline.storage import Shard
from tokenizer.audio import FRAMES_PER_SECOND, SAMPLE_RATE
from tokenizer.windows import Windowing

# Frames drawn together from one window: a second's worth, from all over it.
PIECE_FRAMES = 50


class Reservoir:
    """Which pieces are kept of a stream of unknown length; each is as likely as any other."""

    def __init__(self, frames: int, seed: int):
        """frames: at most this many are kept."""
        self.piece = min(PIECE_FRAMES, frames)
        self.slots = frames // self.piece
        self.random = np.random.default_rng(seed)
        self.seen = 0
        self.kept: dict[int, tuple[int, np.ndarray]] = {}

    def draw(self, frames: int) -> list[tuple[int, int, np.ndarray]]:
        """Split a window's frames at random into pieces; those that enter the reservoir.

        Returns (slot, number, frames) of each. Numbers count up: the later of two in a slot holds.
        """
        entering = []
        shuffled = self.random.permutation(frames)
        for first in range(0, frames, self.piece):
            slot = self.seen
            if self.seen >= self.slots:
                slot = int(self.random.integers(self.seen + 1))
            if slot < self.slots:
                chosen = np.sort(shuffled[first : first + self.piece])
                entering.append((slot, self.seen, chosen))
            self.seen += 1
        return entering

    def put(self, slot: int, number: int, features: np.ndarray) -> None:
        """Keep a piece's features, unless a later piece has taken its slot; any order will do."""
        if slot not in self.kept or self.kept[slot][0] < number:
            self.kept[slot] = (number, features)

    def features(self) -> np.ndarray | None:
        """(n, D) kept features, or None if there are none."""
        pieces = [self.kept[slot][1] for slot in sorted(self.kept)]
        return np.concatenate(pieces) if pieces else None


def sample_features(
    shard: Shard,
    max_frames: int,
    seed: int,
    windowing: Windowing,
    batching: Batching,
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

        dispatcher = Dispatcher(encoders, "features", in_flight, first_encoder)
        for (window, entering), features in encode_all(windows(), dispatcher, batching):
            kept = features[window.kept]
            for slot, number, frames in entering:
                reservoir.put(slot, number, kept[frames])
            progress.advance(stream.bytes_read, len(kept) / FRAMES_PER_SECOND)
    progress.finish(shard.size)
    return reservoir.features(), rejected


sample_features_task = ray.remote(sample_features)
