"""Measure how encoders on a CPU that others use too should wait for their threads.

An encoder's threads wait for each other some hundred times a batch. GNU OpenMP lets a waiting
thread spin before it sleeps; on cores that other processes want, that takes from the thread it
waits for. One batch is timed for each way to wait, on an idle machine and beside busy processes, by
turns. Rows begin with the time of a batch in the median turn.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from jobs.cli import flags

SPIN = "GOMP_SPINCOUNT"
# (the environment of an encoder, encoders that share the batch, threads of each)
Way = tuple[dict[str, str], int, int]


def ways(spins: list[int]) -> dict[str, Way]:
    """What is measured, by name; the first is what the others are compared with."""
    return {
        "GNU OpenMP's own": ({}, 1, 2),
        "OMP_WAIT_POLICY=passive": ({"OMP_WAIT_POLICY": "passive"}, 1, 2),
        **{f"{SPIN}={spin}": ({SPIN: str(spin)}, 1, 2) for spin in spins},
        "two encoders of one thread": ({}, 2, 1),
    }


def encode_on_demand(pipe: Connection, args: flags.argparse.Namespace, part: slice) -> None:
    """Encode these utterances whenever the pipe asks, and answer when they are done."""
    from jobs.bench.support.models import random_tokenizer
    from jobs.bench.support.speech import make_utterances

    tokenizer = random_tokenizer(args.shape, args.precision)
    waves = make_utterances(args.utterances)[part]
    with suppress(EOFError):  # the measurement is over
        while True:
            tokenizer.encode_windows(waves)
            pipe.send(None)
            pipe.recv()


class BusyEncoders:
    """Encoders that wait in one way, each in a process of its own. seconds: of their batches."""

    def __init__(self, name: str, way: Way, args: flags.argparse.Namespace) -> None:
        environment, encoders, threads = way
        self.name = name
        self.seconds: dict[bool, list[float]] = {False: [], True: []}
        self.pipes: list[Connection] = []
        with _environment({**environment, "OMP_NUM_THREADS": str(threads)}):
            for first in range(encoders):
                ours, theirs = multiprocessing.Pipe()
                multiprocessing.get_context("spawn").Process(
                    target=encode_on_demand,
                    args=(theirs, args, slice(first, None, encoders)),
                    daemon=True,
                ).start()
                theirs.close()
                self.pipes.append(ours)
        self._wait()

    def turn(self, busy: bool) -> None:
        """Time one batch. busy: whether other processes run beside it."""
        started = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(None)
        self._wait()
        self.seconds[busy].append(time.perf_counter() - started)

    def _wait(self) -> None:
        for pipe in self.pipes:
            pipe.recv()

    def line(self, first: "BusyEncoders") -> str:
        """The table's line. first: those that the others are compared with."""
        idle, busy = (statistics.median(self.seconds[key]) for key in (False, True))
        usual = statistics.median(first.seconds[False])
        worst = max(self.seconds[True])
        return (
            f"{self.name:<28}{idle:8.3f}{idle / usual:8.3f}{busy:10.3f}{busy / usual:8.2f}"
            f"{worst / usual:8.2f}"
        )


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in (SPIN, "OMP_WAIT_POLICY"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """That many processes that compute without a pause."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/bench/shared_cpu.py --shape wavlm-tiny --turns 5")
    parser.add_argument(
        "--shape",
        choices=("wavlm-tiny", "wavlm-large"),
        default="wavlm-tiny",
        help="of the encoder (default: %(default)s)",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="default: %(default)s"
    )
    parser.add_argument(
        "--utterances",
        type=flags.positive,
        default=8,
        help="in a batch, of 2 to 20 s (default: %(default)s)",
    )
    parser.add_argument(
        "--spins",
        type=flags.positive,
        nargs="+",
        default=[300, 1000, 3000, 10_000],
        metavar="N",
        help=f"values of {SPIN} (default: 300 1000 3000 10000)",
    )
    parser.add_argument(
        "--turns", type=flags.positive, default=9, help="of each row (default: %(default)s)"
    )
    parser.add_argument(
        "--idle",
        type=flags.positive,
        default=5,
        help="batches on the idle machine a turn: differences are small there "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--busy", type=flags.positive, default=2, help="other processes (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    args = parse()
    rows = [BusyEncoders(name, way, args) for name, way in ways(args.spins).items()]
    for _ in range(args.turns):
        for _ in range(args.idle):
            for row in rows:
                row.turn(busy=False)
        with busy_processes(args.busy):
            for row in rows:
                row.turn(busy=True)
    print(f"{args.shape}, {args.precision}, {args.busy} other processes on {os.cpu_count()} cores")
    print(f"{'':<28}{'idle s':>8}{'ratio':>8}{'busy s':>10}{'ratio':>8}{'worst':>8}")
    for row in rows:
        print(row.line(rows[0]), flush=True)
    return 0


if __name__ == "__main__":
    flags.run(main)
