"""Measure k-means over all frames against FAISS: the nearest code, and whole passes.

The nearest code is looked for in one thread, among codes and frames of random numbers; the rows
take turns. Passes are those of jobs/train_tokenizer.py as a person runs it, on speech of
tests/speech, with the process and all that it starts on one core, and then on two. FAISS makes the
same iterations over the same frames with as many threads.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

import json
import os
import statistics
import subprocess
import tempfile
import time
from functools import partial

import faiss
import numpy as np
import torch

from jobs.bench.support.speech import make_utterances, write_shards
from jobs.bench.support.timing import Row, take_turns
from jobs.cli import flags
from jobs.cli.rates import add_rates, record
from pipeline.training.lloyd.assignment import Nearest, Sums

# (codes, dimensions): wavlm-tiny's and -large's features, and --whiten 32.
SHAPES = ((1024, 256), (1024, 1024), (16_384, 1024), (65_536, 1024), (4096, 32))


def assignment(turns: int) -> dict[str, float]:
    """Print the table of the nearest code; returns the rates."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rates = {}
    print("the nearest code, one thread")
    print("  codes   dims   ours GFLOP/s   FAISS GFLOP/s   ours / FAISS   ours with sums   same")
    for codes, width in SHAPES:
        random = np.random.default_rng(0)
        frames = random.standard_normal((1024 if codes > 20_000 else 4096, width), np.float32)
        table = random.standard_normal((codes, width), np.float32)
        nearest, sums = Nearest(table, "l2", None), Sums.zero(codes, width)
        index = faiss.IndexFlatL2(width)
        index.add(table)
        rows = [
            Row(name="ours", run=partial(nearest, torch.from_numpy(frames)), memory=False),
            Row(name="FAISS", run=partial(index.search, frames, 1), memory=False),
            Row(name="sums", run=partial(sums.add, frames, nearest), memory=False),
        ]
        take_turns(rows, turns)
        flops = 2 * len(frames) * codes * width
        ours, theirs, summed = (flops / row.median / 1e9 for row in rows)
        same = nearest(torch.from_numpy(frames))[0].numpy() == index.search(frames, 1)[1][:, 0]
        print(
            f"{codes:>7,}{width:>7}{ours:>15.0f}{theirs:>16.0f}{ours / theirs:>15.2f}"
            f"{summed:>17.0f}{100 * same.mean():>8.2f} %",
            flush=True,
        )
        rates[f"kmeans/{codes}/{width}"] = summed * 1e9
    return rates


def passes(folder: Path, cores: int, codes: int, count: int) -> list[dict]:
    """The log of a run of the job that may use this many cores."""
    output = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, str(ROOT / "jobs/train_tokenizer.py"), "--all-frames"]
    command += ["--input", str(folder / "shards"), "--output", str(output)]
    command += ["--encoder", "wavlm-tiny", "--layer", "4", "--codebook-size", str(codes)]
    command += ["--passes", str(count), "--max-frames", str(codes), "--iterations", "1"]
    command += ["--encoders", str(cores), "--cpus-per-encoder", "1"]
    command += ["--cache-gb", "4", "--cache-folder", str(folder / "cache")]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    lines = (output / "training/log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def faiss_seconds(frames: int, codes: int, threads: int, turns: int) -> float:
    """Of an iteration of FAISS's k-means over as many frames of wavlm-tiny's width."""
    faiss.omp_set_num_threads(threads)
    data = np.random.default_rng(0).standard_normal((frames, 256), np.float32)
    kmeans = faiss.Kmeans(256, codes, niter=1, max_points_per_centroid=frames)
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        kmeans.train(data, init_centroids=data[:codes])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/bench/kmeans.py --codes 512 --repeats 2")
    parser.add_argument("--turns", type=flags.positive, default=3, help="default: %(default)s")
    parser.add_argument(
        "--codes", type=flags.positive, default=16_384, help="of the passes (default: %(default)s)"
    )
    parser.add_argument(
        "--passes", type=flags.positive, default=4, help="of a run (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats",
        type=flags.positive,
        default=16,
        help="of 88 s of speech, in each of four shards (default: %(default)s)",
    )
    add_rates(parser)
    return parser.parse_args()


def main() -> int:
    """Print both tables."""
    args = parse()
    rates = assignment(args.turns)
    record(args.rates, rates, unit="FLOP a second, one core", command="jobs/bench/kmeans.py")
    with tempfile.TemporaryDirectory(prefix="wavmill-bench-") as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        seconds = write_shards(folder / "shards", make_utterances(8), 4, repeats=args.repeats)
        print(
            f"passes over {seconds / 3600:.2f} h of speech, {args.codes:,} codes of 256 dimensions"
        )
        print("cores   first pass s   cached pass s   objectives")
        found = {}
        for cores in (1, 2):
            log = passes(folder, cores, args.codes, count=args.passes)
            later = statistics.median(line["seconds"] for line in log[1:])
            found[cores] = [line["objective"] for line in log]
            shown = ", ".join(f"{value:.6g}" for value in found[cores])
            peer = faiss_seconds(log[0]["frames"], args.codes, cores, turns=args.turns)
            print(
                f"{cores:>5}{log[0]['seconds']:>15.1f}{later:>16.1f}   {shown}; FAISS, "
                f"{cores} threads, over as many frames: {peer:.1f} s",
                flush=True,
            )
        print("the same objectives" if found[1] == found[2] else "OTHER OBJECTIVES")
    return 0


if __name__ == "__main__":
    flags.run(main)
