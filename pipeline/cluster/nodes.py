"""The nodes of the cluster, and what an encoder reserves of one."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Node:
    """A node that is alive, with all that it has, free or not. id: in hexadecimal."""

    id: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Reserve:
    """What Ray reserves for one encoder."""

    cpus: float
    gpus: float

    def fits(self, node: Node) -> bool:
        """Whether the node could hold an encoder if nothing else ran there."""
        return node.cpus >= self.cpus and node.gpus >= self.gpus

    def most(self, nodes: list[Node]) -> int:
        """How many encoders fill the nodes: their GPUs or, without any reserved, their cores.

        All of an encoder is on one node: cores left over on a node stay idle.
        """
        if self.gpus:
            return sum(int(node.gpus // self.gpus) for node in nodes)
        return sum(int(node.cpus // self.cpus) for node in nodes)


def alive_nodes() -> list[Node]:
    """Those that the head has not declared dead."""
    return [
        Node(node["NodeID"], node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def on_this_node(actor: type) -> Any:
    """An actor's class, to start with .remote(...): it lives as long as this node, the driver's.

    It restarts if its process dies, and calls that were lost are made again. Ray keeps no record of
    each call: of 100,000 tasks they would take over a gigabyte at the cluster's head.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(actor)
    return remote.options(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        enable_task_events=False,
        scheduling_strategy=here,
    )
