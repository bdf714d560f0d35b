"""Which encoders run, and which of them a shard task uses: one small actor that all tasks ask.

Encoders come and go while a task runs, and a thousand handles in each task would be more bytes than
the rest of it. So a task knows this actor alone, and asks it every few seconds for a few encoders.
"""

import heapq
from dataclasses import dataclass, field

from ray.actor import ActorHandle

# Seconds after which a task asks again: at least so many, and more where many tasks ask, so that
# about this many ask in a second.
LEAST_SECONDS, ASKED_A_SECOND = 2.0, 200
# How many more tasks an encoder may have and still be taken because it is on the task's own node
# (its batches then cross no network), or because the task uses it already.
NEAR, HELD = 1.5, 0.5

# Seconds that a call to the list may take to be answered.
LIST_SECONDS = 120.0


@dataclass(frozen=True)
class Assigned:
    """What a task uses until it asks again, in `seconds`. encoders: by their number."""

    encoders: dict[int, ActorHandle]
    seconds: float


@dataclass(frozen=True)
class ListState:
    """What the driver looks at.

    encoders: how many are listed. lost: why tasks gave up each that they gave up since the last
    look. tasks: how many run. waited, spent: seconds since the last look, of all tasks together,
    waiting for encoders and in all.
    """

    encoders: int
    lost: dict[int, str]
    tasks: int
    waited: float
    spent: float


@dataclass
class _Listed:
    handle: ActorHandle
    node: str
    tasks: int = 0


@dataclass
class _Asking:
    """A running task: its encoders' numbers, and its two clocks when it asked last."""

    encoders: list[int] = field(default_factory=list)
    waited: float = 0.0
    spent: float = 0.0


class EncoderList:
    """Runs as a Ray actor on the driver's node, so that it lives as long as the driver."""

    def __init__(self) -> None:
        self.encoders: dict[int, _Listed] = {}
        self.tasks: dict[int, _Asking] = {}
        self.lost: dict[int, str] = {}
        self.waited = self.spent = 0.0

    def add(self, number: int, handle: ActorHandle, node: str) -> None:
        """An encoder is ready, on this node."""
        self.encoders[number] = _Listed(handle, node)

    def remove(self, number: int) -> None:
        """No task is to use this encoder any more."""
        if self.encoders.pop(number, None):
            for task in self.tasks.values():
                if number in task.encoders:
                    task.encoders.remove(number)

    def ask(
        self, task: int, node: str, *, lost: dict[int, str], waited: float, spent: float
    ) -> Assigned:
        """The encoders that a task is to use: those of the fewest tasks, on its own node first.

        With as many tasks as encoders or more a task gets one; with fewer, all get their share.
        node: the task's. lost: encoders that it gives up, with the reasons. waited, spent: the
        task's seconds so far, waiting for encoders and in all.
        """
        for number, why in lost.items():
            if number in self.encoders:
                self.remove(number)
                self.lost[number] = why
        asking = self.tasks.setdefault(task, _Asking())
        # A task that Ray runs again begins at zero.
        self.waited += max(0.0, waited - asking.waited)
        self.spent += max(0.0, spent - asking.spent)
        asking.waited, asking.spent = waited, spent
        held = set(asking.encoders)
        for number in held:
            self.encoders[number].tasks -= 1

        def load(number: int) -> tuple[float, int]:
            encoder = self.encoders[number]
            near = NEAR * (encoder.node == node) + HELD * (number in held)
            # Tasks that ask at the same time with equal loads begin at different encoders.
            return encoder.tasks - near, (number - task) % len(self.encoders)

        share = max(1, -(-len(self.encoders) // len(self.tasks)))
        asking.encoders = heapq.nsmallest(share, self.encoders, key=load)
        for number in asking.encoders:
            self.encoders[number].tasks += 1
        return Assigned(
            {number: self.encoders[number].handle for number in asking.encoders},
            max(LEAST_SECONDS, len(self.tasks) / ASKED_A_SECOND),
        )

    def end(self, task: int) -> None:
        """A task has ended, well or not."""
        asking = self.tasks.pop(task, None)
        for number in asking.encoders if asking else ():
            self.encoders[number].tasks -= 1

    def look(self) -> ListState:
        """The state for the driver; begins the next count."""
        state = ListState(
            encoders=len(self.encoders),
            lost=self.lost,
            tasks=len(self.tasks),
            waited=self.waited,
            spent=self.spent,
        )
        self.lost, self.waited, self.spent = {}, 0.0, 0.0
        return state
