"""Measure what feeds the encoders: decoding, alone and through shard tasks, and stubs kept busy.

A stub takes a batch for as long as an encoder of its speed would, computes nothing, and gives
zeros. Speeds are in seconds of audio a second, so times real time. A core second is a second of CPU
time of the process that decodes, which a machine shared with others changes little. All decoding
runs in Ray's workers, where BLAS has one thread: others would spin, and count.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import soundfile

from jobs.bench.support.speech import CONTAINERS, make_utterances, write_container
from jobs.cli import flags
from jobs.cli.rates import add_rates, record
from pipeline.cluster.connect import connect
from pipeline.cluster.encoder_actor import CALLS_AT_ONCE
from pipeline.cluster.encoders import EncoderPool
from pipeline.cluster.nodes import Reserve
from pipeline.cluster.progress import TaskTime
from pipeline.cluster.run_shards import run_shards
from pipeline.settings import EncoderSettings, TokenizeSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.tokenize.companions import Companions
from pipeline.tokenize.shard_task import tokenize_shard
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE, num_frames
from tokenizer.audio.windows import RawWindow, Windowing
from tokenizer.storage.tars import read_members

CODES = 1024
UNIT = "s of audio a second, one core"
# What a shard task gets beside its shard, as jobs/tokenize.py sets it.
SETTINGS = TokenizeSettings()
WINDOWING = Windowing.of_seconds(window_seconds=30.0, context_seconds=2.0, normalize=True)


class Stub:
    """An encoder of a stated speed, with EncoderActor's methods."""

    def __init__(self, speed: float) -> None:
        """speed: times real time; 0 takes no time."""
        self.speed, self.lock = speed, threading.Lock()
        self.began = self.free = self.busy = 0.0

    def ready(self) -> str:
        """Answers at once, with the id of its node."""
        return ray.get_runtime_context().get_node_id()

    def encode(self, windows: list[RawWindow]) -> list[np.ndarray]:
        """Zeros, when the stub has done what came before and this."""
        with self.lock:
            now = time.monotonic()
            self.began = self.began or now
            seconds = sum(map(len, windows)) / SAMPLE_RATE / self.speed if self.speed else 0.0
            self.free = max(now, self.free) + seconds
            self.busy += seconds
            done = self.free
        time.sleep(max(0.0, done - time.monotonic()))
        return [np.zeros(num_frames(len(each)), np.uint16) for each in windows]

    def share_busy(self) -> float:
        """Of the time from the first batch to the end of the last."""
        return self.busy / max(self.free - self.began, 1e-9)


@dataclass(frozen=True)
class Measured:
    """A shard task's audio and CPU seconds, where its time went, and when by the clock."""

    seconds: float
    cpu: float
    time: TaskTime
    started: float
    ended: float


def measured_task(shard: Shard, board: Any, **arguments: Any) -> Measured:
    """The shard task, with its CPU time."""
    started, before = time.time(), time.process_time()
    done = tokenize_shard(shard, board, **arguments)
    cpu = time.process_time() - before
    return Measured(done.seconds, cpu, time=done.time, started=started, ended=time.time())


def shard_of(path: Path, number: int = 0) -> Shard:
    """One of several shards with the same content."""
    return Shard(f"{path.stem}-{number:06d}", f"file://{path}", path.stat().st_size)


def decoded(path: Path) -> float:
    """Read and decode a shard, and no more. Returns audio seconds."""
    seconds = 0.0
    with open_shard(shard_of(path)) as stream:
        for _, utterance, _ in read_utterances(stream, WINDOWING.samples, keep_int16=True):
            assert utterance is not None
            seconds += utterance.duration_s
    return seconds


def decoder_alone(path: Path) -> float:
    """Libsndfile over every member of a shard, without any check. Returns audio seconds."""
    seconds = 0.0
    with path.open("rb") as file:
        for _, content in read_members(file):
            assert content is not None
            sound, rate = soundfile.read(io.BytesIO(content.read()), dtype="int16")
            seconds += len(sound) / rate
    return seconds


def core_rate(run: Callable[[], float], turns: int) -> float:
    """Audio seconds per core second, the median of several turns; runs as a Ray task."""
    rates = []
    for _ in range(turns):
        before = time.process_time()
        seconds = run()
        rates.append(seconds / (time.process_time() - before))
    return statistics.median(rates)


@dataclass(frozen=True)
class Job:
    """A job with stubs. speed: audio seconds a second; core: per core second. busy: of the time."""

    speed: float
    core: float
    busy: float
    time: TaskTime


class StubRoom:
    """The pool's, whose stubs are asked how busy they were before they end."""

    def __init__(self, pool: EncoderPool, stubs: list[Any]) -> None:
        self.pool, self.stubs = pool, stubs
        self.tend, self.options, self.ended = pool.tend, pool.options, pool.ended
        self.busy = 0.0

    def close(self) -> None:
        """The last task has ended."""
        self.busy = statistics.mean(ray.get([stub.share_busy.remote() for stub in self.stubs]))
        self.pool.close()


def run_job(path: Path, shards: int, speed: float) -> Job:
    """Tokenize copies of a shard with a stub for each two cores. shards: for each core."""
    cores = os.cpu_count() or 1
    count = max(1, cores // 2)
    stubs: list[Any] = []

    def start() -> Any:
        remote: Any = ray.remote(num_cpus=0)(Stub)
        stubs.append(remote.options(max_concurrency=CALLS_AT_ONCE).remote(speed))
        return stubs[-1]

    pool = EncoderPool(
        EncoderSettings(device="cpu", encoders=count),
        device="cpu",
        # As beside GPUs: tasks get the cores.
        reserve=Reserve(cpus=0, gpus=1),
        start=start,
    )
    pool.wait_for_first()
    room, tasks = StubRoom(pool, stubs), list[Measured]()
    with tempfile.TemporaryDirectory(prefix="wavmill-bench-") as output:

        def arguments(*, number: int, **_: Any) -> dict[str, Any]:
            return {
                "output": output,
                "windowing": WINDOWING,
                "limits": SETTINGS.batch_limits(),
                "max_duration": None,
                "companions": Companions(None, (), FRAMES_PER_SECOND),
                "codebook_size": CODES,
                "dispatcher": pool.dispatcher("encode", number),
            }

        failed = run_shards(
            "feed",
            [shard_of(path, number) for number in range(shards * cores)],
            room=room,
            function=measured_task,
            arguments=arguments,
            take=lambda _, measured: tasks.append(measured),
        )
    assert not failed, failed
    seconds, cpu = sum(task.seconds for task in tasks), sum(task.cpu for task in tasks)
    elapsed = max(task.ended for task in tasks) - min(task.started for task in tasks)
    spent = sum((task.time for task in tasks), TaskTime())
    return Job(seconds / elapsed, seconds / cpu, busy=room.busy, time=spent)


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/bench/feed.py --containers flac16 --turns 1")
    parser.add_argument(
        "--containers",
        nargs="+",
        choices=CONTAINERS,
        default=list(CONTAINERS),
        help="to decode (default: all)",
    )
    parser.add_argument(
        "--speeds",
        nargs="+",
        type=float,
        default=[1000, 3000, 10000, 0],
        help="of the stubs, times real time; 0 takes no time (default: 1000 3000 10000 0)",
    )
    parser.add_argument(
        "--minutes",
        type=flags.positive,
        default=90,
        help="of audio in a shard of 16 kHz FLAC (default: %(default)s)",
    )
    parser.add_argument(
        "--shards", type=flags.positive, default=4, help="for each core (default: %(default)s)"
    )
    parser.add_argument(
        "--turns", type=flags.positive, default=3, help="of each figure (default: %(default)s)"
    )
    add_rates(parser)
    return parser.parse_args()


def main() -> int:
    """Print the two tables."""
    args = parse()
    waves = make_utterances(60)
    audio = sum(map(len, waves)) / SAMPLE_RATE
    repeats = max(1, round(60 * args.minutes / audio))
    connect()
    with tempfile.TemporaryDirectory(prefix="wavmill-bench-") as folder:
        print("audio seconds per core second")
        print(f"{'container':<12}{'decoder':>9}{'read':>9}{'task':>9}")
        for name in args.containers:
            # Other containers take longer to decode.
            some = repeats if CONTAINERS[name].rate == SAMPLE_RATE else max(1, repeats // 4)
            path = write_container(Path(folder), name, waves, repeats=some)
            task = ray.remote(num_cpus=1)(core_rate)
            rates = [
                ray.get(task.remote(partial(decoder_alone, path), args.turns)),
                ray.get(task.remote(partial(decoded, path), args.turns)),
                run_job(path, args.shards, 0).core,
            ]
            measured = {f"decode/{name}": rates[-1]}
            record(args.rates, measured, unit=UNIT, command="jobs/bench/feed.py")
            print(f"{name:<12}" + "".join(f"{rate:9,.0f}" for rate in rates), flush=True)
        print(f"\n{os.cpu_count()} cores, shards of 16 kHz FLAC, a stub for each two cores")
        print(f"{'stub':<12}{'job':>9}{'a core':>9}{'busy':>8}  time of the tasks")
        path = write_container(Path(folder), "flac16", waves, repeats=repeats)
        for speed in args.speeds:
            job = run_job(path, args.shards, speed)
            shares = ", ".join(f"{name} {part:.0%}" for name, part in job.time.shares().items())
            name = f"{speed:,.0f} x" if speed else "no time"
            print(f"{name:<12}{job.speed:9,.0f}{job.core:9,.0f}{job.busy:8.1%}  {shares}")
    return 0


if __name__ == "__main__":
    flags.run(main)
