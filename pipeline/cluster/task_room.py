"""How many shard tasks run, and on which nodes."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.encoder_list import ListState
from pipeline.cluster.nodes import Node, Reserve

# Tasks for each encoder on a CPU: while one starts or commits, another reads.
TASKS_PER_CPU_ENCODER = 2
# Tasks for each encoder on a GPU as the run begins, then what the run itself shows.
TASKS_PER_GPU_ENCODER = 4.0
# Where tasks spend less than the first share of their time waiting for encoders, more tasks run;
# with more than the second, fewer do. In between an encoder finds its next batch there.
WAITS_TOO_LITTLE, WAITS_TOO_MUCH = 0.25, 0.6
GROW, SHRINK = 1.5, 0.8
# Seconds of all tasks together that a decision is based on, for each task that runs.
SECONDS_A_TASK = 4.0


@dataclass(frozen=True)
class FixedRoom:
    """Room for tasks without encoders. at_once: how many run. num_cpus, num_gpus: for one."""

    at_once: int
    num_cpus: float
    num_gpus: float = 0

    def tend(self) -> int:
        """How many tasks may run now."""
        return self.at_once

    def options(self, task: int) -> dict[str, Any]:
        """Ray's options for a task."""
        del task
        return {
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus,
            "scheduling_strategy": "SPREAD",
        }

    def ended(self, task: int) -> None:
        """A task has ended."""

    def close(self) -> None:
        """Nothing is held."""


class TaskRoom:
    """Room for tasks beside encoders.

    Beside GPUs a task gets a core of its own, and there are as many tasks as there are cores left,
    up to what keeps the encoders busy. Encoders on CPUs have all the cores, beside which decoding
    takes next to nothing.
    """

    def __init__(self, reserve: Reserve) -> None:
        """reserve: of an encoder."""
        self.reserve = reserve
        self.at_once = 1
        self.per_encoder = TASKS_PER_GPU_ENCODER
        self.waited = self.spent = 0.0
        self.encoders: Counter[str] = Counter()
        self.slots: dict[str, int] = {}
        self.node_of: dict[int, str] = {}
        self.tasks: Counter[str] = Counter()

    def adjust(self, state: ListState, nodes: list[Node], encoders: list[str]) -> None:
        """Take in what the run has shown. encoders: the node of each."""
        self.encoders = Counter(encoders)
        if not self.reserve.gpus:
            self.at_once = TASKS_PER_CPU_ENCODER * max(1, len(encoders))
            return
        self.slots = {
            node.id: max(0, int(node.cpus - self.encoders[node.id] * self.reserve.cpus))
            for node in nodes
        }
        self.waited, self.spent = self.waited + state.waited, self.spent + state.spent
        if self.spent > SECONDS_A_TASK * max(1, state.tasks):
            share = self.waited / self.spent
            # More tasks than run already would not start either.
            if share < WAITS_TOO_LITTLE and state.tasks >= 0.9 * self.at_once:
                self.per_encoder *= GROW
            elif share > WAITS_TOO_MUCH:
                self.per_encoder = max(1.0, SHRINK * self.per_encoder)
            self.waited = self.spent = 0.0
        useful = math.ceil(self.per_encoder * max(1, len(encoders)))
        cores = sum(self.slots.values())
        self.per_encoder = min(self.per_encoder, max(1.0, cores / max(1, len(encoders))))
        # Without a core beside the encoders they share theirs.
        self.at_once = max(2, min(useful, cores)) if cores else 2 * max(1, len(encoders))

    def options(self, task: int) -> dict[str, Any]:
        """Ray's options for a task: a node with encoders while one has room, then another."""
        node = self._node()
        strategy: Any = "SPREAD"
        if node is not None:
            self.node_of[task] = node
            self.tasks[node] += 1
            # A node that is gone, or busy with another job, is no reason to wait.
            strategy = NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
        own_core = self.reserve.gpus and any(self.slots.values())
        return {"num_cpus": 1 if own_core else 0, "scheduling_strategy": strategy}

    def ended(self, task: int) -> None:
        """A task has ended."""
        node = self.node_of.pop(task, None)
        if node is not None:
            self.tasks[node] -= 1

    def _node(self) -> str | None:
        near = [
            (self.tasks[node] / encoders, node)
            for node, encoders in self.encoders.items()
            if not self.reserve.gpus or self.tasks[node] < self.slots.get(node, 0)
        ]
        far = [
            (self.tasks[node] / slots, node)
            for node, slots in self.slots.items()
            if self.tasks[node] < slots
        ]
        return min(near or far, default=(0.0, None))[1]
