"""Progress on stderr: a line that moves on a terminal, and a line every half minute in a log.

Work runs in other processes: they write how far they are to a board, an actor, and the driver shows
what the board holds. Ray is imported only where a board is read: a bar alone needs none.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass
from typing import Any

from tqdm import tqdm

REFRESH_SECONDS = 0.5
LOG_SECONDS = 30.0
# A board that takes longer than this to answer is not waited for.
ANSWER_SECONDS = 10.0


def say_precision(precision: str, device: str) -> None:
    """Say what makes the tokens, before a job that encodes begins."""
    print(f"encoding in {precision} on {device}", file=sys.stderr, flush=True)


def bar(what: str, unit: str, total: float | None = None, **options: Any) -> tqdm:
    """A progress bar; its update() takes how many more units are done.

    total: units in all, if known. options: other arguments of tqdm.
    """
    defaults = {
        "unit": unit if options.get("unit_scale") else f" {unit}",
        "dynamic_ncols": True,
        "mininterval": 0.1 if sys.stderr.isatty() else LOG_SECONDS,
    }
    return tqdm(desc=what, total=total, **{**defaults, **options})


@dataclass(frozen=True)
class TaskTime:
    """Where the seconds of shard tasks went.

    decode: reading tars, decoding audio, cutting windows. encode: waiting for encoders. storage:
    waiting for input, and publishing output.
    """

    decode: float = 0.0
    encode: float = 0.0
    storage: float = 0.0

    def __add__(self, other: "TaskTime") -> "TaskTime":
        parts = zip(astuple(self), astuple(other), strict=True)
        return TaskTime(*(one + another for one, another in parts))

    def shares(self) -> dict[str, float]:
        """The part of the whole that each is; the largest says what limits a run."""
        whole = max(sum(astuple(self)), 1e-9)
        return {name: seconds / whole for name, seconds in asdict(self).items()}

    def limit(self) -> str:
        """The name of the largest."""
        shares = self.shares()
        return max(shares, key=shares.__getitem__)


class ProgressBoard:
    """An actor: shard tasks write how far they are, and the driver reads it.

    A task writes its totals, not steps, so that a retried task starts again at zero. A shard that
    has been finished is forgotten: a lake has 100,000 of them.
    """

    def __init__(self) -> None:
        self.shards: dict[str, tuple[float, float, TaskTime]] = {}
        self.bytes = self.seconds = 0.0
        self.time = TaskTime()
        self.threads = 1

    def write(
        self, shard: str, bytes_done: float, seconds: float, time: TaskTime | None = None
    ) -> int:
        """bytes_done: of the input tar. seconds: of audio, encoded. time: where the task's went.

        Returns how many threads of its node the task may decode with.
        """
        before = self.shards.get(shard, (0.0, 0.0, TaskTime()))
        now = (bytes_done, seconds, time or TaskTime())
        self.shards[shard] = now
        self.bytes += now[0] - before[0]
        self.seconds += now[1] - before[1]
        minus = TaskTime(*(-part for part in astuple(before[2])))
        self.time = self.time + now[2] + minus
        return self.threads

    def finish(self, shard: str, *totals: Any) -> None:
        """As `write`, for the last time."""
        self.write(shard, *totals)
        del self.shards[shard]

    def allow(self, threads: int) -> None:
        """How many threads each task may decode with from now on."""
        self.threads = threads

    def totals(self) -> tuple[float, float, TaskTime]:
        """Bytes, audio seconds and time of all shards."""
        return self.bytes, self.seconds, self.time


class ShardProgress:
    """A shard task's side: writes to a ProgressBoard's actor, about once a second.

    spent: gives where the task's time went so far, if it is known.
    """

    def __init__(self, board: Any, shard: str, spent: Callable[[], TaskTime] | None = None) -> None:
        self.board, self.shard, self.spent = board, shard, spent
        self.seconds_read = self.seconds_done = 0.0
        self.bytes_read, self.cores = 0, 1
        self.written = 0.0
        self.answer: Any = None
        self.lock = threading.Lock()

    def advance(self, bytes_read: int, seconds: float) -> None:
        """seconds: of audio just encoded; bytes_read: of the tar so far, which runs ahead."""
        self.seconds_done += seconds
        self.bytes_read = bytes_read
        self._tell()

    def threads(self) -> int:
        """How many threads the task may decode with now: more where fewer tasks run than cores."""
        self._tell()
        return self.cores

    def finish(self, size: int) -> None:
        """The whole tar is done."""
        self.board.finish.remote(self.shard, size, self.seconds_done, self._spent())

    def _spent(self) -> TaskTime | None:
        return self.spent() if self.spent else None

    def _tell(self) -> None:
        """Write, if it is time to, and take the board's last answer."""
        if time.monotonic() - self.written < 2 * REFRESH_SECONDS or not self.lock.acquire(False):
            return
        try:
            import ray  # not above: see the module

            # A board that restarts does not answer, and the next write asks again.
            if self.answer is not None and ray.wait([self.answer], timeout=0)[0]:
                with suppress(ray.exceptions.RayActorError):
                    self.cores = ray.get(self.answer)
            self.written = time.monotonic()
            share = min(1.0, self.seconds_done / max(self.seconds_read, 1e-9))
            self.answer = self.board.write.remote(
                self.shard, self.bytes_read * share, self.seconds_done, self._spent()
            )
        finally:
            self.lock.release()


class ShardLine:
    """The driver's side: shows shards, audio hours, times real time, and the time left."""

    def __init__(self, name: str, shards: int, *, total_bytes: int, board: Any) -> None:
        self.name, self.shards, self.total = name, shards, max(total_bytes, 1)
        self.board, self.started = board, time.monotonic()
        self.finished, self.failed, self.shown, self.shared = 0, 0, 0.0, 0.0
        self.totals, self.threads = (0.0, 0.0, TaskTime()), 1
        self.terminal = sys.stderr.isatty()
        # The text is tqdm's description, at the end: its postfix begins with a comma.
        form = name + " {percentage:3.0f}%|{bar:24}| {desc}"
        self.bar = bar("", "%", total=100.0, bar_format=form, disable=not self.terminal)
        self._share_cores()

    def shard_ended(self, ok: bool) -> None:
        """One shard is finished, or given up."""
        self.finished += ok
        self.failed += not ok

    def _share_cores(self) -> None:
        """Let the last tasks use the cores of those that have ended."""
        import ray  # not above: see the module

        if time.monotonic() - self.shared < REFRESH_SECONDS:
            return  # it asks the cluster's head
        self.shared = time.monotonic()
        tasks = max(1, self.shards - self.finished - self.failed)
        threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // tasks)
        if threads != self.threads:
            self.threads = threads
            self.board.allow.remote(threads)

    def refresh(self, last: bool = False) -> None:
        """Show the present state, if it is time to."""
        import ray  # not above: see the module

        self._share_cores()
        wait = 2 * REFRESH_SECONDS if self.terminal else LOG_SECONDS
        if not last and time.monotonic() - self.shown < wait:
            return
        self.shown = time.monotonic()
        # A board that restarts does not answer: what it said last is shown.
        with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            self.totals = ray.get(self.board.totals.remote(), timeout=ANSWER_SECONDS)
        done, seconds, spent = self.totals
        elapsed = time.monotonic() - self.started
        share = 1.0 if self.finished == self.shards else min(done / self.total, 1.0)
        left = tqdm.format_interval(elapsed * (1 - share) / share) if share > 0 else "?"
        # A job that decodes nothing counts bytes.
        audio = f"{seconds / 3600:.2f} h of audio, {seconds / max(elapsed, 1e-9):.0f} x real time"
        amount = audio if seconds else f"{done / 2**20:,.0f} MB"
        text = f"{self.finished}/{self.shards} shards, {amount}, ETA {left}"
        if spent != TaskTime():
            limit = spent.limit()
            text += f", limited by {limit} ({spent.shares()[limit]:.0%})"
        if self.failed:
            text += f", {self.failed} failed"
        if self.terminal:
            self.bar.n = 100 * share
            self.bar.set_description_str(text)
        else:
            print(f"{self.name} {100 * share:3.0f}%: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Show the last state and leave it on the screen."""
        self.refresh(last=True)
        self.bar.close()


class TrainingLine:
    """Shows training: called with the stage's name, steps done, steps in all, and a text."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, name: str, step: int, steps: int, text: str) -> None:
        """A new name begins a line of its own."""
        if self.bar is None or self.bar.desc.removesuffix(": ") != name:
            self.close()
            self.bar = bar(name, "step", total=steps, initial=step - 1)
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        """End the line."""
        if self.bar is not None:
            self.bar.close()


class TrainingBoard:
    """An actor: a training process writes its last step, and the driver reads it."""

    def __init__(self) -> None:
        self.last: tuple[str, int, int, str] | None = None

    def write(self, *, name: str, step: int, steps: int, text: str) -> None:
        """As TrainingLine is called."""
        self.last = (name, step, steps, text)

    def read(self) -> tuple[str, int, int, str] | None:
        """What was written last, if anything."""
        return self.last


class Reporter:
    """A training process's side: writes about twice a second, and the last step of a stage."""

    def __init__(self, board: Any) -> None:
        self.board, self.written = board, 0.0

    def __call__(self, name: str, step: int, steps: int, text: str) -> None:
        """As TrainingLine is called."""
        now = time.monotonic()
        if now - self.written >= REFRESH_SECONDS or step == steps:
            self.written = now
            self.board.write.remote(name=name, step=step, steps=steps, text=text)


@contextmanager
def shown(board: Any) -> Iterator[None]:
    """Show what is written to a TrainingBoard for as long as the body runs."""
    import ray  # not above: see the module

    line, done = TrainingLine(), threading.Event()

    def watch() -> None:
        while not done.wait(REFRESH_SECONDS):
            if last := ray.get(board.read.remote()):
                line(*last)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        line.close()
