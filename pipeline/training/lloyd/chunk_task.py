"""A Ray task: the sums of some shards' frames, sent to where all sums come together."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from pipeline.cluster.dispatch import Dispatcher
from pipeline.cluster.progress import ShardProgress
from pipeline.settings import BatchLimits
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.training.lloyd.assignment import Nearest, Sums
from pipeline.training.lloyd.feature_cache import FeatureCache, FeatureWriter
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE
from tokenizer.audio.windows import RawWindow, Window, Windowing


class SumsOfCodes:
    """An actor: the sums of a range of codes in the latest pass that it has heard of.

    A chunk that comes again counts once, and one of an earlier pass not at all. Where the actor's
    node was lost, it starts again without any.
    """

    def __init__(self, codes: int, dimensions: int) -> None:
        self.shape = codes, dimensions
        self._begin(0)

    def _begin(self, number: int) -> None:
        self.number = number
        self.sums = Sums.zero(*self.shape).whole()
        self.chunks: set[int] = set()

    def add(self, number: int, chunk: int, sums: Sums) -> None:
        """Add a chunk's sums in pass `number`, which any task gives alike."""
        if number > self.number:
            self._begin(number)
        if number == self.number and chunk not in self.chunks:
            self.sums += sums
            self.chunks.add(chunk)

    def read(self, number: int) -> tuple[Sums, set[int]]:
        """All sums of pass `number` so far, and the chunks in them."""
        if number > self.number:
            self._begin(number)
        return self.sums, self.chunks


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """How the features of a shard are made or found."""

    windowing: Windowing
    limits: BatchLimits
    max_duration: float | None
    cache: FeatureCache

    def features(
        self,
        shard: Shard,
        *,
        dispatcher: Dispatcher,
        progress: ShardProgress,
        rejected: Counter[str],
    ) -> Iterator[np.ndarray]:
        """(n, D) fp32 of each window of a shard, in any order; adds to `rejected`."""
        if self.cache.has(shard):
            for features in self.cache.read(shard, rejected):
                yield features
                progress.seconds_read += len(features) / FRAMES_PER_SECOND
                progress.advance(shard.size, len(features) / FRAMES_PER_SECOND)
            return
        writer = FeatureWriter(self.cache, shard)
        mine: Counter[str] = Counter()
        with open_shard(shard) as stream:

            def windows() -> Iterator[tuple[Window, RawWindow]]:
                found = read_utterances(
                    stream, self.windowing.samples, max_duration=self.max_duration, keep_int16=True
                )
                for _, utterance, reason in found:
                    if utterance is None:
                        mine[str(reason)] += 1
                        continue
                    progress.seconds_read += utterance.samples / SAMPLE_RATE
                    plan = self.windowing.plan_samples(utterance.samples)
                    yield from zip(plan, self.windowing.cut_raw(utterance, plan), strict=True)

            for window, features in dispatcher.encode_all(windows(), self.limits):
                kept = np.array(features[window.kept], np.float32)
                writer.add(kept)
                yield kept
                progress.advance(stream.bytes_read, len(kept) / FRAMES_PER_SECOND)
        writer.finish(mine)
        rejected += mine


def sum_chunk(
    _: Shard,
    board: ActorHandle,
    *,
    pass_number: int,
    number: int,
    shards: list[Shard],
    codes: np.ndarray,
    projection: np.ndarray | None,
    metric: str,
    source: FeatureSource,
    dispatcher: Dispatcher,
    actors: list[ActorHandle],
) -> dict[str, Any]:
    """Assign all frames of a chunk of shards to codes (K, D), and send the sums to the actors.

    Each window is a product of its own, in one thread, so that what came before it changes no bit.
    pass_number: of the pass that the sums are of. number: of the chunk. actors: of SumsOfCodes,
    each of which has a range of codes, in order. Returns the node, whether all features are on its
    disk, and the rejected samples by reason.
    """
    torch.set_num_threads(1)
    nearest, sums = Nearest(codes, metric, projection), Sums.zero(*codes.shape)
    rejected: Counter[str] = Counter()
    for shard in shards:
        progress = ShardProgress(board, shard.name)
        found = source.features(shard, dispatcher=dispatcher, progress=progress, rejected=rejected)
        for features in found:
            sums.add(features, nearest)
        progress.finish(shard.size)
    ray.get(
        [
            actor.add.remote(pass_number, number, part)
            for actor, part in zip(actors, split_codes(sums.whole(), len(actors)), strict=True)
        ]
    )
    return {
        "node": ray.get_runtime_context().get_node_id(),
        "cached": all(map(source.cache.has, shards)),
        "rejected": rejected,
    }


def split_codes(sums: Sums, parts: int) -> list[Sums]:
    """Sums of ranges of codes, in order; the value is with the first."""
    ranges = np.array_split(np.arange(len(sums.counts)), parts)
    return [
        Sums(
            sums.totals[some[0] : some[-1] + 1],
            sums.counts[some[0] : some[-1] + 1],
            0 if number else sums.value,
            largest=sums.largest,
        )
        for number, some in enumerate(ranges)
    ]


def join_codes(parts: list[Sums]) -> Sums:
    """The sums of all codes from those of their ranges."""
    return Sums(
        np.concatenate([part.totals for part in parts]),
        np.concatenate([part.counts for part in parts]),
        sum(part.value for part in parts),
        largest=max(part.largest for part in parts),
    )
