"""As many shard tasks run as keep the encoders busy, on the encoders' nodes first."""

from collections import Counter

from pipeline.cluster.encoder_list import ListState
from pipeline.cluster.nodes import Node, Reserve
from pipeline.cluster.task_room import TaskRoom

HEAD, ONE, TWO = "0" * 56, "1" * 56, "2" * 56
NODES = [Node(HEAD, cpus=4, gpus=0), Node(ONE, cpus=16, gpus=1), Node(TWO, cpus=16, gpus=1)]
CORES = 4 + 15 + 15  # without those that the encoders have


def after(room: TaskRoom, seconds: float, share: float) -> int:
    """Tasks at once after so many seconds, of which tasks waited this share for encoders."""
    for _ in range(int(seconds)):
        spent = 1.0 * room.at_once
        room.adjust(
            ListState(encoders=2, lost={}, tasks=room.at_once, waited=share * spent, spent=spent),
            NODES,
            [ONE, TWO],
        )
    return room.at_once


def test_tasks_follow_what_encoders_take():
    room = TaskRoom(Reserve(cpus=1, gpus=1))
    assert after(room, 1, 0.4) == 8  # to begin with
    assert after(room, 30, 0.4) == 8  # encoders find their next batch there
    more = after(room, 10, 0.05)
    assert 8 < more < CORES
    assert after(room, 60, 0.05) == CORES
    assert after(room, 120, 0.9) == 2
    # Nodes that are lost take their cores along.
    room.adjust(ListState(encoders=0, lost={}, tasks=2, waited=0, spent=0), NODES[:1], [])
    assert room.at_once <= 4


def test_tasks_run_beside_their_encoders():
    room = TaskRoom(Reserve(cpus=1, gpus=1))
    after(room, 60, 0.0)

    def node(task: int) -> str:
        options = room.options(task)
        assert options["num_cpus"] == 1
        return options["scheduling_strategy"].node_id

    nodes = [node(task) for task in range(CORES)]
    assert Counter(nodes[:30]) == {ONE: 15, TWO: 15}
    assert set(nodes[30:]) == {HEAD}
    assert room.options(CORES)["scheduling_strategy"] == "SPREAD"  # Ray knows what is free
    room.ended(nodes.index(TWO))
    assert node(CORES + 1) == TWO


def test_encoders_on_cpus_keep_the_cores():
    room = TaskRoom(Reserve(cpus=2, gpus=0))
    idle = ListState(encoders=3, lost={}, tasks=1, waited=0.0, spent=100.0)
    for _ in range(10):
        room.adjust(idle, NODES, [ONE, ONE, TWO])
    assert room.at_once == 6
    chosen = [room.options(task) for task in range(6)]
    assert {options["num_cpus"] for options in chosen} == {0}
    places = Counter(options["scheduling_strategy"].node_id for options in chosen)
    assert places == {ONE: 4, TWO: 2}
