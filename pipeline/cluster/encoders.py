"""The encoders of a run, as its driver sees them: started, listed for tasks, lost and replaced.

An encoder is an actor that holds the tokenizer on one GPU, or on a few CPU cores. Every encoder
gives the same tokens for a batch, so a shard's batches may go to all of them, and again to another.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from pipeline.cluster.batch_size import batch_seconds_of
from pipeline.cluster.code import fingerprint, node_refused, unfit
from pipeline.cluster.dispatch import Dispatcher
from pipeline.cluster.encoder_actor import CALLS_AT_ONCE, EncoderActor
from pipeline.cluster.encoder_list import LIST_SECONDS, EncoderList
from pipeline.cluster.nodes import Reserve, alive_nodes, on_this_node
from pipeline.cluster.progress import say_precision
from pipeline.cluster.task_room import TaskRoom
from pipeline.huge_pages import page_variables
from pipeline.openmp import waiting_variables
from pipeline.settings import EncoderSettings
from tokenizer.errors import ClusterFailed, UsageError, one_line
from tokenizer.storage.tokenizer_files import TokenizerFiles

# How often an encoder is started that raises an error as it starts, and one whose node or process
# is lost each time before it has started.
STARTS, LOST_STARTS = 3, 10
# Seconds between messages that encoders are still waiting for room on the cluster.
WAIT_SECONDS = 30.0
# Seconds between looks at the encoders, and at the cluster's nodes.
LOOK_SECONDS, NODES_SECONDS = 0.5, 5.0
# Seconds that the list of encoders may take to answer what it was told, as a run ends.
CLOSE_SECONDS = 5.0


@dataclass
class _Coming:
    """An encoder that has not loaded yet. ready: the answer that it has. failures: starts before
    it, in its place.
    """

    handle: ActorHandle
    ready: ray.ObjectRef
    failures: int


@dataclass
class _Running:
    """An encoder that has loaded, and the node it is on."""

    handle: ActorHandle
    node: str


class EncoderPool:
    """A run's encoders: those that run, and those to come. Whoever has it calls `tend` often.

    device: "cpu" or "cuda". served: how many encoders have run so far.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        *,
        device: str,
        reserve: Reserve,
        start: Callable[[], ActorHandle],
    ) -> None:
        """start: starts one encoder."""
        self.settings, self.device, self.reserve, self.start = settings, device, reserve, start
        self.list: Any = on_this_node(EncoderList).remote()
        self.room = TaskRoom(reserve)
        self.coming: dict[int, _Coming] = {}
        self.running: dict[int, _Running] = {}
        self.started = self.served = 0
        self.nodes = alive_nodes()
        self.looked_at = self.nodes_at = self.hope_at = self.said_at = time.monotonic()
        self.problem = ""
        self.wanted = self._want()
        for _ in range(self.wanted):
            self._start()

    def dispatcher(self, method: str, task: int) -> Dispatcher:
        """What a shard task sends its batches with. method: "encode" or "features"."""
        return Dispatcher(self.list, method, task=task, call_seconds=self.settings.call_seconds)

    def find_batch_seconds(self, window_seconds: float) -> float | None:
        """Seconds of audio for a batch, tried out on one encoder; None on a CPU."""
        if self.device == "cpu":
            return None
        encoder: Any = next(iter(self.running.values())).handle
        call = encoder.__ray_call__.remote(batch_seconds_of, window_seconds)
        found = ray.get(call, timeout=self.settings.call_seconds)
        _say(f"batches of {found:g} s of audio")
        return found

    def wait_for_first(self) -> None:
        """Wait until an encoder runs; the others may come later. Raises as `tend` does."""
        while not self.running:
            self.tend()
            waiting = [coming.ready for coming in self.coming.values()]
            ray.wait(waiting, timeout=LOOK_SECONDS) if waiting else time.sleep(LOOK_SECONDS)

    def tend(self) -> int:
        """Take on encoders that are ready, replace lost ones. Returns how many tasks may run.

        Raises ClusterFailed when no encoder runs and none can come, and UsageError when a node has
        other code than the driver.
        """
        now = time.monotonic()
        if self.running and now - self.looked_at < LOOK_SECONDS:
            return self.room.at_once
        self.looked_at = now
        self._take_on()
        state = ray.get(self.list.look.remote(), timeout=LIST_SECONDS)
        if state.encoders < len(self.running) - len(state.lost):  # it restarted
            for number, running in self.running.items():
                self.list.add.remote(number, running.handle, running.node)
        self._replace(state.lost)
        if now - self.nodes_at > (NODES_SECONDS if self.running else LOOK_SECONDS):
            self.nodes, self.nodes_at = alive_nodes(), now
            # Never fewer than before: a node may come back, and encoders that wait for one make an
            # autoscaling cluster add it.
            while self.wanted < self._want():
                self.wanted += 1
                self._start()
        self._check_hope(now)
        self.room.adjust(state, self.nodes, [running.node for running in self.running.values()])
        return self.room.at_once

    def options(self, task: int) -> dict[str, Any]:
        """Ray's options for a shard task: on a node with encoders, while one has room."""
        return self.room.options(task)

    def ended(self, task: int) -> None:
        """A shard task has ended."""
        self.room.ended(task)
        self.list.end.remote(task)

    def close(self) -> None:
        """End the encoders, and the actor that lists them.

        One that is left to end as its handle goes, while Ray itself ends, sometimes never does.
        """
        with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            # A call that has not been answered yet is said to have failed, on the user's screen.
            ray.get(self.list.look.remote(), timeout=CLOSE_SECONDS)
        ray.kill(self.list)
        handles = [coming.handle for coming in self.coming.values()]
        for handle in handles + [running.handle for running in self.running.values()]:
            ray.kill(handle)
        self.coming, self.running = {}, {}

    def _want(self) -> int:
        return self.settings.encoders or max(1, self.reserve.most(self.nodes))

    def _start(self, failures: int = 0) -> None:
        handle: Any = self.start()
        self.coming[self.started] = _Coming(handle, handle.ready.remote(), failures)
        self.started += 1

    def _take_on(self) -> None:
        """List the encoders that have loaded, and start those again that could not."""
        for number, coming in list(self.coming.items()):
            if not ray.wait([coming.ready], timeout=0)[0]:
                continue
            del self.coming[number]
            try:
                node = ray.get(coming.ready)
            except ray.exceptions.RayError as error:
                self._not_started(coming, error)
                continue
            self.running[number] = _Running(coming.handle, node)
            self.served += 1
            self.list.add.remote(number, coming.handle, node)

    def _not_started(self, coming: _Coming, error: ray.exceptions.RayError) -> None:
        failures, most = coming.failures + 1, LOST_STARTS
        self.problem = one_line(error)
        if getattr(error, "actor_init_failed", False):
            most = STARTS
            # Ray gives the error as text: the whole stack, and what was raised on the last line.
            self.problem = (str(error).strip().splitlines() or ["no reason given"])[-1]
        if why := unfit(error):
            raise node_refused(why)
        if failures < most:
            self._start(failures)
        else:
            _say(f"an encoder cannot be started, and is left out: {self.problem}")

    def _replace(self, lost: dict[int, str]) -> None:
        """Start encoders in place of those that tasks gave up."""
        gone = [number for number in lost if number in self.running]
        for number in gone:
            # It may only be late; and it may hold its GPU.
            ray.kill(self.running.pop(number).handle)
            self._start()
        if gone:
            self.problem = lost[gone[-1]]
            left = len(self.running)
            _say(f"encoders lost: {len(gone)}, left: {left}; their batches go on ({self.problem})")

    def _check_hope(self, now: float) -> None:
        """Say what is waited for. Raises ClusterFailed when no encoder runs and none can come."""
        possible = self.running or any(map(self.reserve.fits, self.nodes))
        if self.coming and possible:
            self.hope_at = now
        if self.running:
            self.hope_at = self.said_at = now
        elif not self.coming:
            raise ClusterFailed(f"no encoder can be started: {self.problem}")
        elif now - self.hope_at > self.settings.wait_seconds:
            why = f"; the last one was lost: {self.problem}" if self.served else ""
            raise ClusterFailed(
                f"no encoder is left, and for {now - self.hope_at:.0f} s no node has been there "
                f"that could hold one{why}; add a node and run the same command again"
            )
        elif now - self.said_at > WAIT_SECONDS:
            self.said_at = now
            _say(f"waiting for one of {len(self.coming)} encoders to start")


def start_encoders(
    files: TokenizerFiles,
    settings: EncoderSettings,
    precision: str,
    *,
    actor: type = EncoderActor,
) -> EncoderPool:
    """Start the encoder actors and wait until the first has loaded; others join as they load.

    precision: "fp32" or "bf16". actor: EncoderActor, or a class with its methods. Raises UsageError
    for a device that the cluster lacks, and ClusterFailed if no encoder can be started.
    """
    nodes = alive_nodes()
    gpus = sum(int(node.gpus) for node in nodes)
    device = settings.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and not gpus and not settings.encoders:
        raise UsageError(
            "the Ray cluster has no GPU", "add one, or use the CPU", value="cuda", argument="device"
        )
    if issubclass(actor, EncoderActor):
        say_precision(precision, device)
    reserved = settings.gpus_per_encoder
    reserve = Reserve(cpus=1, gpus=(device == "cuda") if reserved is None else reserved)
    options: dict[str, Any] = {}
    threads: int | None = None
    if device == "cpu":
        cores = [int(node.cpus) for node in nodes]
        threads = max(1, min(settings.cpus_per_encoder, max(cores)))
        # OpenMP reads it once, when torch is imported: an encoder must not start a thread per core.
        variables = {"OMP_NUM_THREADS": str(threads), **waiting_variables(), **page_variables()}
        options["runtime_env"] = {"env_vars": variables}
        if not reserve.gpus:
            # More encoders than cores are allowed, as on a laptop that tries four: they share.
            count = settings.encoders or max(1, sum(node // threads for node in cores))
            reserve = Reserve(cpus=min(threads, sum(cores) / count), gpus=0)
    # An encoder that dies is replaced by the pool, and its batches are sent again by the tasks: Ray
    # would keep calls for an actor that can be placed nowhere, for ever. Nor does Ray keep a record
    # of each batch, see `on_this_node`.
    options |= {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
    remote: Any = ray.remote(num_cpus=reserve.cpus, num_gpus=reserve.gpus, **options)(actor)
    weights = ray.put(files)
    # The reference travels inside bytes: the weights stay in the store for the whole job, and a
    # later encoder finds them there. As a plain argument, Ray warns at every start that the object
    # may be lost.
    reference = ray.cloudpickle.dumps(weights)

    def start(kept: ray.ObjectRef = weights) -> ActorHandle:
        del kept  # for as long as encoders may be started
        return remote.options(max_concurrency=CALLS_AT_ONCE).remote(
            reference, code=fingerprint(), device=device, precision=precision, threads=threads
        )

    pool = EncoderPool(settings, device=device, reserve=reserve, start=start)
    pool.wait_for_first()
    return pool


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
