"""Progress of training: a line that moves, or log lines where there is no terminal.

Training by Ray Train runs in other processes: they write to a board, and the driver shows it.
"""

import sys
import threading
import time
from contextlib import contextmanager

import ray
from tqdm import tqdm

REFRESH_SECONDS = 0.5
LOG_SECONDS = 30.0


class TrainingLine:
    """Called with the stage's name, steps done, steps in all, and what to say of the last ones."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, name: str, step: int, steps: int, said: str) -> None:
        """A name that was not there before begins a line of its own."""
        if self.bar is None or self.bar.desc.removesuffix(": ") != name:
            self.close()
            self.bar = tqdm(
                total=steps,
                initial=step - 1,
                desc=name,
                unit="step",
                dynamic_ncols=True,
                mininterval=REFRESH_SECONDS if sys.stderr.isatty() else LOG_SECONDS,
            )
        self.bar.set_postfix_str(said, refresh=False)
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        """End the line."""
        if self.bar is not None:
            self.bar.close()


@ray.remote(num_cpus=0)
class TrainingBoard:
    """What the training process last said, for the driver to read."""

    def __init__(self) -> None:
        self.last: tuple[str, int, int, str] | None = None

    def write(self, *what) -> None:
        """As TrainingLine is called."""
        self.last = what

    def read(self) -> tuple[str, int, int, str] | None:
        """The last that was written, if any."""
        return self.last


class Reporter:
    """The training process's side: writes about twice a second, and the last step of a stage."""

    def __init__(self, board) -> None:
        self.board, self.written = board, 0.0

    def __call__(self, name: str, step: int, steps: int, said: str) -> None:
        """As TrainingLine is called."""
        now = time.monotonic()
        if now - self.written >= REFRESH_SECONDS or step == steps:
            self.written = now
            self.board.write.remote(name, step, steps, said)


@contextmanager
def shown(board):
    """Show what is written to the board for as long as the body runs."""
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
