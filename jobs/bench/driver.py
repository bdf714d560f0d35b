"""Measure what does not shrink with more machines: the driver's loop over shards, and the manifest.

The loop is the job's own, on a real Ray, with the job's own pool and list of encoders, and sends a
task for each shard, two for each encoder at a time. Simulated are the tasks, which ask for an
encoder, say that they are done and do nothing else; and the encoders, which are all listed, but as
handles of a few real actors. The manifest is made by the job's own code of report files that are
there, all of them hard links of a hundred files.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import contextlib
import itertools
import os
import resource
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray

from jobs.bench.support.processes import memory_mb, status_mb
from jobs.cli import flags
from jobs.cli.rates import add_rates, record
from pipeline.cluster.connect import connect
from pipeline.cluster.dispatch import Dispatcher
from pipeline.cluster.encoders import EncoderPool
from pipeline.cluster.nodes import Reserve
from pipeline.cluster.progress import ShardProgress
from pipeline.cluster.run_shards import run_shards
from pipeline.settings import BatchLimits, EncoderSettings
from pipeline.shards.inputs import Shard
from pipeline.shards.report import ShardReport, gather
from tokenizer.storage.folder import Folder

# Files that the reports are links of.
DIFFERENT = 100
CODES = 1024
LIMITS = BatchLimits(size=1, samples=1)


class StubEncoder:
    """An actor that stands for many encoders."""

    def ready(self) -> str:
        """Answers at once, with the id of its node."""
        return ray.get_runtime_context().get_node_id()


def stub_task(shard: Shard, board: Any, *, dispatcher: Dispatcher) -> float:
    """A shard of 1,000 samples that takes no time: it asks for encoders, and says that it is done.

    Returns its seconds of audio.
    """
    for _ in dispatcher.encode_all((), LIMITS):
        raise AssertionError("there was nothing to encode")
    progress = ShardProgress(board, shard.name)
    progress.advance(shard.size, 1e4)
    progress.finish(shard.size)
    return 1e4


class BenchRoom:
    """An EncoderPool's, whose tasks take a core each: here they would all run at once."""

    def __init__(self, pool: EncoderPool) -> None:
        self.tend, self.ended = pool.tend, pool.ended
        self.pool, self.memory = pool, 0.0

    def options(self, task: int) -> dict[str, Any]:
        """Ray's options for a task."""
        return {**self.pool.options(task), "num_cpus": 1}

    def close(self) -> None:
        """The last task has ended, and the actors have not."""
        self.memory = memory_mb("ray::ProgressBoard") + memory_mb("ray::EncoderList")
        self.pool.close()


def measure_loop(shards: int, encoders: int, actors: int) -> float:
    """Print a line; returns the driver's CPU seconds for a shard."""
    actor: Any = ray.remote(num_cpus=0)(StubEncoder)
    few = itertools.cycle([actor.remote() for _ in range(actors)])
    pool = EncoderPool(
        EncoderSettings(device="cpu", encoders=encoders),
        device="cpu",
        reserve=Reserve(cpus=0, gpus=0),
        start=lambda: next(few),
    )
    while len(pool.running) < encoders:
        pool.wait_for_first()
        pool.looked_at = 0.0
        pool.tend()
    inputs = [Shard(f"part-{n:06d}", f"s3://bucket/part-{n:06d}.tar", n) for n in range(shards)]
    room, audio = BenchRoom(pool), 0.0

    def take(_: Shard, seconds: float) -> None:
        nonlocal audio
        audio += seconds

    before = {name: memory_mb(name) for name in ("gcs_server", "raylet/raylet")}
    driver, started, cpu = status_mb("VmRSS"), time.perf_counter(), time.process_time()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        failed = run_shards(
            "bench",
            inputs,
            room=room,
            function=stub_task,
            arguments=lambda number, **_: {"dispatcher": pool.dispatcher("encode", number)},
            take=take,
        )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert audio == 1e4 * shards and not failed
    now = status_mb("VmRSS")
    more = [now - driver, *(memory_mb(name) - before[name] for name in before)]
    print(
        f"{shards:>9,}{seconds:>10.1f}{1000 * seconds / shards:>12.3f}{1000 * cpu / shards:>12.3f}"
        f"{now:>11.0f}{room.memory:>8.0f}" + "".join(f"{each:>10.1f}" for each in more),
        flush=True,
    )
    return cpu / shards


def write_reports(folder: Path, reports: int, rows: int) -> None:
    """Reports of `rows` samples each; all but the first hundred are hard links."""
    (folder / "reports").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(reports):
        path = folder / f"reports/part-{number:06d}.parquet"
        if number >= DIFFERENT:
            os.link(folder / f"reports/part-{number % DIFFERENT:06d}.parquet", path)
            continue
        report = ShardReport(f"part-{number:06d}", CODES, version=(1, "mark"))
        for row in range(rows):
            key = f"{number:04d}-{row:06d}-{random.integers(1 << 40):010x}"
            report.ok(key, float(random.uniform(2, 20)), random.integers(0, CODES, 8))
        report.write(path)


def measure_gather(folder: Path, reports: int, rows: int) -> float:
    """Print a line; returns seconds for a report."""
    write_reports(folder, reports, rows)
    before, started = status_mb("VmRSS"), time.perf_counter()
    summary = gather(Folder(str(folder)), write_manifest=True)
    seconds = time.perf_counter() - started
    assert summary["samples"] == reports * rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    path = folder / "manifest.parquet"
    footer = pq.read_metadata(path)
    started = time.perf_counter()
    read, most = 0, 0
    for group in range(footer.num_row_groups):
        table = pq.ParquetFile(path).read_row_group(group)
        read, most = read + len(table), max(most, table.nbytes)
    assert read == summary["samples"]
    print(
        f"{reports:>9,}{reports * rows:>13,}{seconds:>9.1f}{1000 * seconds / reports:>11.3f}"
        f"{peak - before:>9.0f}{footer.num_row_groups:>9,}{footer.serialized_size / 2**20:>11.2f}"
        f"{most / 2**20:>10.0f}{time.perf_counter() - started:>9.1f}",
        flush=True,
    )
    return seconds / reports


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__, "python jobs/bench/driver.py --shards 200 2000 --reports 300 --rows 100"
    )
    parser.add_argument(
        "--shards",
        type=flags.count,
        nargs="+",
        default=[1_000, 10_000, 100_000],
        help="of the loop, one after the other; 0 for none (default: 1000 10000 100000)",
    )
    parser.add_argument(
        "--encoders", type=flags.positive, default=1000, help="simulated (default: %(default)s)"
    )
    parser.add_argument(
        "--actors", type=flags.positive, default=2, help="that stand for them (default: 2)"
    )
    parser.add_argument(
        "--reports",
        type=flags.count,
        nargs="+",
        default=[1_000, 10_000, 100_000],
        help="of the manifest, one after the other; 0 for none (default: 1000 10000 100000)",
    )
    parser.add_argument(
        "--rows", type=flags.positive, default=1000, help="of a report (default: %(default)s)"
    )
    parser.add_argument(
        "--without-ray", action="store_true", help="make the manifest in this process alone"
    )
    add_rates(parser)
    return parser.parse_args()


def main() -> int:
    """Print both tables."""
    args = parse()
    connect()
    rates = {}
    print(f"the loop: {args.encoders:,} encoders, simulated by {args.actors} actors")
    print(f"{'':43}{'MB in the end':>19}{'MB more':>30}")
    print(
        f"{'shards':>9}{'seconds':>10}{'ms a shard':>12}{'CPU ms each':>12}{'driver':>11}"
        f"{'actors':>8}{'driver':>10}{'GCS':>10}{'raylet':>10}"
    )
    measure_loop(100, args.encoders, args.actors)
    for shards in filter(None, args.shards):
        rates["driver/shards"] = 1 / measure_loop(shards, args.encoders, args.actors)
    if args.without_ray:
        ray.shutdown()
    print(f"the manifest: {args.rows:,} rows a report, {'no ' * args.without_ray}Ray")
    print(
        "  reports         rows  seconds  ms a report   MB more  groups  footer MB  group MB  "
        "read s"
    )
    for reports in filter(None, args.reports):
        with tempfile.TemporaryDirectory(prefix="wavmill-bench-") as folder:
            rates["manifest/reports"] = 1 / measure_gather(Path(folder), reports, args.rows)
            size = (Path(folder) / "reports/part-000000.parquet").stat().st_size
            record(
                args.rates,
                {"manifest/row_bytes": size / args.rows},
                unit="bytes",
                command="jobs/bench/driver.py",
            )
    record(args.rates, rates, unit="a second", command="jobs/bench/driver.py")
    return 0


if __name__ == "__main__":
    flags.run(main)
