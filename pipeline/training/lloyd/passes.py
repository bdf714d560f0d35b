"""One pass over all frames: every frame to its nearest code, every code to its frames' mean."""

import sys
import time
from collections import Counter
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as NodeAffinity

from pipeline.cluster.encoders import EncoderPool
from pipeline.cluster.nodes import alive_nodes
from pipeline.cluster.run_shards import run_shards
from pipeline.shards.inputs import Shard
from pipeline.training.lloyd.assignment import Sums, next_codes
from pipeline.training.lloyd.chunk_task import FeatureSource, SumsOfCodes, join_codes, sum_chunk
from pipeline.training.lloyd.feature_cache import FeatureCache
from pipeline.training.lloyd.state import LloydState
from tokenizer.errors import TrainingFailed

# Chunks for each task that runs at once: the last ones to finish leave few cores idle.
CHUNKS_PER_TASK = 4
# Actors that hold the sums, each a range of the codes: at most this many, and one a node.
MOST_ACTORS = 16
# How often chunks are summed again whose sums were lost with a node.
TRIES = 3


class PassRoom:
    """Room for a pass's tasks: the encoders', which stay for the next pass.

    Where all features are on the nodes' disks, encoders have nothing to do, and there is a task for
    each core. A task goes where its features are.
    """

    def __init__(self, pool: EncoderPool, nodes: dict[int, str], cores: int) -> None:
        """nodes: of tasks that ran before, by number. cores: 0 where features are made."""
        self.pool, self.nodes, self.cores = pool, nodes, cores

    def tend(self) -> int:
        """How many tasks may run now."""
        beside_encoders = self.pool.tend()
        return self.cores or beside_encoders

    def options(self, task: int) -> dict[str, Any]:
        """Ray's options for a task."""
        options = self.pool.options(task)
        if node := self.nodes.get(task):
            options["scheduling_strategy"] = NodeAffinity(node, soft=True)
        return options

    def ended(self, task: int) -> None:
        """A task has ended."""
        self.pool.ended(task)

    def close(self) -> None:
        """The encoders are kept."""


class Passes:
    """Passes over all shards: what stays the same from one to the next."""

    def __init__(
        self, shards: list[Shard], metric: str, *, source: FeatureSource, pool: EncoderPool
    ) -> None:
        self.metric, self.source, self.pool = metric, source, pool
        self.cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.chunks = _chunks(shards, CHUNKS_PER_TASK * self.cores)
        self.nodes: dict[int, str] = {}
        self.actors: list[Any] = []
        self.cached = False

    def make(self, state: LloydState, passes: int) -> dict[str, str]:
        """One pass: moves the codes, adds a line to the log and prints it.

        Returns why chunks of shards failed; the codes have not moved then. Raises TrainingFailed
        when sums are lost again and again.
        """
        number, started = state.next_pass, time.monotonic()
        codes = state.codes
        sums, rejected, failed = self._sums(f"pass {number}/{passes}", codes, state)
        if sums is None:
            return failed
        moved, empty = next_codes(codes, sums, self.metric)
        seconds = time.monotonic() - started
        converged = bool(np.array_equal(moved, codes))
        state.tensors["codebook.codes"] = moved
        state.log.append(
            {
                "pass": number,
                "objective": sums.mean_value,
                "frames": sums.frames,
                "empty": empty,
                "seconds": round(seconds, 3),
                "converged": converged,
                "rejected": dict(sorted(rejected.items())),
            }
        )
        what = "mean cosine" if self.metric == "cosine" else "mean squared distance"
        left = (passes - number) * seconds / 60
        rest = "codes no longer move" if converged else f"about {left:.1f} min left"
        print(
            f"pass {number}/{passes}: {what} {sums.mean_value:.6g} over {sums.frames:,} frames, "
            f"{empty:,} empty codes split, {seconds:.1f} s, {rest}",
            file=sys.stderr,
            flush=True,
        )
        return {}

    def _sums(
        self, name: str, codes: np.ndarray, state: LloydState
    ) -> tuple[Sums | None, Counter[str], dict[str, str]]:
        """The sums over all shards, rejected samples by reason, and why shards failed."""
        table = ray.put(codes)
        self.actors = self.actors or self._actors(codes)
        rejected: Counter[str] = Counter()
        missing = set(range(len(self.chunks)))
        done: dict[str, Any] = {}
        for _ in range(TRIES):
            todo = sorted(missing)
            results, failed = self._run(name, todo, table=table, state=state)
            if failed:
                return None, rejected, failed
            done |= results
            parts = ray.get([actor.read.remote(state.next_pass) for actor in self.actors])
            missing -= set.intersection(*(chunks for _, chunks in parts))
            if not missing:
                for result in done.values():
                    rejected += result["rejected"]
                self.cached = all(result["cached"] for result in done.values())
                return join_codes([sums for sums, _ in parts]), rejected, {}
        raise TrainingFailed(
            "nodes that held the sums were lost again and again; run the same command again"
        )

    def _run(
        self, name: str, todo: list[int], *, table: ray.ObjectRef, state: LloydState
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """A task for each chunk of these numbers."""
        chunks = [
            Shard(f"part {number}", "", sum(shard.size for shard in self.chunks[number]))
            for number in todo
        ]

        def arguments(*, number: int, **_: Any) -> dict[str, Any]:
            return {
                "pass_number": state.next_pass,
                "number": todo[number],
                "shards": self.chunks[todo[number]],
                "codes": table,
                "projection": state.tensors.get("codebook.projection"),
                "metric": self.metric,
                "source": self.source,
                "dispatcher": self.pool.dispatcher("features", number),
                "actors": self.actors,
            }

        nodes = {
            place: self.nodes[number] for place, number in enumerate(todo) if number in self.nodes
        }
        results: dict[str, Any] = {}

        def take(chunk: Shard, result: dict[str, Any]) -> None:
            results[chunk.name] = result

        failed = run_shards(
            name,
            chunks,
            room=PassRoom(self.pool, nodes, self.cores if self.cached else 0),
            function=sum_chunk,
            arguments=arguments,
            take=take,
        )
        for place, chunk in enumerate(chunks):
            if chunk.name in results:
                self.nodes[todo[place]] = results[chunk.name]["node"]
        return results, failed

    def _actors(self, codes: np.ndarray) -> list:
        count = min(len(alive_nodes()), MOST_ACTORS, len(codes))
        ranges = np.array_split(np.arange(len(codes)), count)
        make: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(SumsOfCodes)
        options = make.options(scheduling_strategy="SPREAD")
        return [options.remote(len(some), codes.shape[1]) for some in ranges]

    def close(self) -> None:
        """End the encoders and the sums; remove the features from all nodes that are left."""
        self.pool.close()
        for actor in self.actors:
            ray.kill(actor)
        if not self.source.cache.most_bytes:
            return
        remove: Any = ray.remote(num_cpus=0)(FeatureCache.remove)
        ray.get(
            [
                remove.options(scheduling_strategy=NodeAffinity(node.id, soft=True)).remote(
                    self.source.cache
                )
                for node in alive_nodes()
            ]
        )


def _chunks(shards: list[Shard], most: int) -> list[list[Shard]]:
    """Neighbouring shards together, in at most about `most` chunks of like size."""
    size = max(1, sum(shard.size for shard in shards) // most)
    chunks: list[list[Shard]] = [[]]
    filled = 0
    for shard in shards:
        if filled >= size:
            chunks.append([])
            filled = 0
        chunks[-1].append(shard)
        filled += shard.size
    return chunks
