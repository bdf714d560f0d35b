"""Progress of a job over shards: one line that moves, or log lines where there is no terminal."""

import sys
import time

import ray
from tqdm import tqdm

REFRESH_SECONDS = 1.0
LOG_SECONDS = 30.0


@ray.remote(num_cpus=0, max_restarts=-1)
class ProgressBoard:
    """Where shard tasks write how far they are, and the driver reads it.

    A task writes its own totals, not steps, so that a retried task starts again at zero.
    """

    def __init__(self) -> None:
        self.shards: dict[str, tuple[float, float]] = {}

    def write(self, shard: str, bytes_done: float, seconds: float) -> None:
        """bytes_done: of the input tar. seconds: of audio, encoded."""
        self.shards[shard] = (bytes_done, seconds)

    def totals(self) -> tuple[float, float]:
        """Bytes and audio seconds over all shards."""
        columns = zip(*self.shards.values(), strict=True) if self.shards else ([0], [0])
        return tuple(sum(column) for column in columns)


class ShardProgress:
    """A shard task's side: says how far it is, about once a second."""

    def __init__(self, board, shard: str) -> None:
        self.board, self.shard = board, shard
        self.seconds_read = self.seconds_done = 0.0
        self.written = time.monotonic()

    def advance(self, bytes_read: int, seconds: float) -> None:
        """seconds: of audio just encoded; bytes_read: of the tar so far, which runs ahead."""
        self.seconds_done += seconds
        if time.monotonic() - self.written >= REFRESH_SECONDS:
            self.written = time.monotonic()
            share = min(1.0, self.seconds_done / max(self.seconds_read, 1e-9))
            self.board.write.remote(self.shard, bytes_read * share, self.seconds_done)

    def finish(self, size: int) -> None:
        """The whole tar is done."""
        self.board.write.remote(self.shard, size, self.seconds_done)


class ProgressLine:
    """The driver's side. Shows shards, audio hours, times real time, and the time that is left."""

    def __init__(self, name: str, shards: int, total_bytes: int, board) -> None:
        self.name, self.shards, self.total = name, shards, max(total_bytes, 1)
        self.board, self.started = board, time.monotonic()
        self.finished = self.failed = 0
        self.shown = 0.0
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=100.0,
            disable=not self.terminal,
            # The text is tqdm's description, at the end: its postfix begins with a comma.
            bar_format=name + " {percentage:3.0f}%|{bar:24}| {desc}",
            dynamic_ncols=True,
        )

    def shard_ended(self, ok: bool) -> None:
        """One shard is finished, or given up."""
        self.finished += ok
        self.failed += not ok

    def refresh(self, last: bool = False) -> None:
        """Show the present state, if it is time to."""
        wait = REFRESH_SECONDS if self.terminal else LOG_SECONDS
        if not last and time.monotonic() - self.shown < wait:
            return
        self.shown = time.monotonic()
        done, seconds = ray.get(self.board.totals.remote())
        elapsed = time.monotonic() - self.started
        share = 1.0 if self.finished == self.shards else min(done / self.total, 1.0)
        left = tqdm.format_interval(elapsed * (1 - share) / share) if share > 0 else "?"
        # Ingest decodes nothing, and so counts bytes.
        audio = f"{seconds / 3600:.2f} h of audio, {seconds / max(elapsed, 1e-9):.0f} x real time"
        amount = audio if seconds else f"{done / 2**20:,.0f} MB"
        text = f"{self.finished}/{self.shards} shards, {amount}, ETA {left}"
        if self.failed:
            text += f", {self.failed} failed"
        if self.terminal:
            self.bar.n = 100 * share
            self.bar.set_description_str(text)
        else:
            print(f"{self.name} {100 * share:3.0f}%: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Show the last state and leave it standing."""
        self.refresh(last=True)
        self.bar.close()
