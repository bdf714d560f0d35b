"""Measure k-means over all frames against FAISS: the nearest code, whole passes, and the codes.

The nearest code is looked for in one thread, among codes and frames of random numbers: here for a
window of 30 s at a time, as the job does, and by FAISS for all frames at once. The rows take turns.
Passes are those of jobs/train_tokenizer.py as a person runs it, on cuts of tests/speech, with the
process and all that it starts on one core, and then on two. FAISS makes an iteration over as many
frames with as many threads.
With --fit and --held-out, codes of all frames are compared with codes that FAISS found in a sample,
after as many iterations, on speech that neither has seen. Run it on an idle machine.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from functools import partial

import faiss
import numpy as np
import torch
from safetensors.numpy import load_file

from jobs.bench.support.held_out import HeldOut
from jobs.bench.support.speech import make_utterances, write_shards
from jobs.bench.support.timing import Row, take_turns
from jobs.cli import flags
from jobs.cli.rates import add_rates, record
from pipeline.training.lloyd.assignment import Nearest, Sums
from tokenizer.tokenizer import Tokenizer

# (codes, dimensions): wavlm-tiny's and -large's features, and --whiten 32.
SHAPES = ((1024, 256), (1024, 1024), (16_384, 1024), (65_536, 1024), (4096, 32))
# Features of the passes and of the comparison.
ENCODER, LAYER, WIDTH = "wavlm-tiny", 4, 256
# Utterances of a shard of the passes are this long on average, in seconds.
MEAN_SECONDS = 11
SHARDS = 4
# Frames of a window of 30 s: the job looks for codes a window at a time.
WINDOW = 1500


def assignment(turns: int) -> dict[str, float]:
    """Print the table of the nearest code; returns the rates."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rates = {}
    print("the nearest code, one thread")
    print("  codes   dims   ours GFLOP/s   FAISS GFLOP/s   ours / FAISS   ours with sums   same")
    for codes, width in SHAPES:
        random = np.random.default_rng(0)
        windows = 1 if codes > 20_000 else 3
        frames = random.standard_normal((windows * WINDOW, width), np.float32)
        table = random.standard_normal((codes, width), np.float32)
        nearest, sums = Nearest(table, "l2", None), Sums.zero(codes, width)
        index = faiss.IndexFlatL2(width)
        index.add(table)
        rows = [
            Row(name="ours", run=partial(find, nearest, frames), memory=False),
            Row(name="FAISS", run=partial(index.search, frames, 1), memory=False),
            Row(name="sums", run=partial(add, sums, frames, nearest=nearest), memory=False),
        ]
        take_turns(rows, turns)
        flops = 2 * len(frames) * codes * width
        ours, theirs, summed = (flops / row.median / 1e9 for row in rows)
        same = np.concatenate(find(nearest, frames)) == index.search(frames, 1)[1][:, 0]
        print(
            f"{codes:>7,}{width:>7}{ours:>15.0f}{theirs:>16.0f}{ours / theirs:>15.2f}"
            f"{summed:>17.0f}{100 * same.mean():>8.2f} %",
            flush=True,
        )
        rates[f"kmeans/{codes}/{width}"] = summed * 1e9
    return rates


def find(nearest: Nearest, frames: np.ndarray) -> list[np.ndarray]:
    """The codes of each window."""
    return [nearest(window)[0].numpy() for window in torch.from_numpy(frames).split(WINDOW)]


def add(sums: Sums, frames: np.ndarray, nearest: Nearest) -> None:
    """Add each window to the sums."""
    for first in range(0, len(frames), WINDOW):
        sums.add(frames[first : first + WINDOW], nearest)


def train(folder: Path, shards: list[str], *, cores: int, **more: object) -> Path:
    """Run jobs/train_tokenizer.py on so many cores; returns its output. more: other flags."""
    output = Path(tempfile.mkdtemp(dir=folder))
    flagged = {"encoder": ENCODER, "layer": LAYER, "output": output, "encoders": cores, **more}
    command = [sys.executable, str(ROOT / "jobs/train_tokenizer.py"), "--input", *shards]
    for name, value in {**flagged, "cpus_per_encoder": 1}.items():
        command += [f"--{name.replace('_', '-')}", *([] if value is None else [str(value)])]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    if done.returncode:
        sys.exit(done.stderr)
    return output


def passes(folder: Path, cores: int, codes: int, count: int) -> list[dict]:
    """The log of a run of the job that may use this many cores."""
    cache = folder / "cache"
    output = train(
        folder,
        [str(folder / "shards")],
        cores=cores,
        codebook_size=codes,
        all_frames=None,
        passes=count,
        max_frames=2 * codes,
        iterations=1,
        cache_gb=8,
        cache_folder=cache,
    )
    shutil.rmtree(cache, ignore_errors=True)
    lines = (output / "training/log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def faiss_seconds(frames: int, codes: int, threads: int, turns: int) -> float:
    """Of an iteration of FAISS's k-means over as many frames of wavlm-tiny's width."""
    faiss.omp_set_num_threads(threads)
    data = np.random.default_rng(0).standard_normal((frames, WIDTH), np.float32)
    kmeans = faiss.Kmeans(WIDTH, codes, niter=1, max_points_per_centroid=frames)
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        kmeans.train(data, init_centroids=data[:codes])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def compare_codes(args: flags.argparse.Namespace, folder: Path) -> None:
    """Print the table of codes from a sample and from all frames."""
    both = args.iterations + args.passes
    print(
        f"\ncodes fitted to {', '.join(args.fit)}: FAISS, {both} iterations over a sample of "
        f"{args.sample:,} frames; and {args.iterations} over the sample, then {args.passes} passes "
        "over all frames"
    )
    print(
        f"{'codes':>7}  {'held out':<28}{'error: sample':>14}{'all':>8}"
        f"{'PNMI: sample':>14}{'all':>8}"
    )
    sets: list[HeldOut] = []
    for codes in args.compared_codes:
        shared = {"cores": 2, "codebook_size": codes, "max_frames": args.sample}
        sampled = train(folder, args.fit, iterations=both, **shared)
        whole = train(
            folder,
            args.fit,
            iterations=args.iterations,
            all_frames=None,
            passes=args.passes,
            cache_gb=8,
            cache_folder=folder / "cache",
            **shared,
        )
        tables = [load_file(each / "model.safetensors") for each in (sampled, whole)]
        if not sets:
            tokenizer = Tokenizer.from_pretrained(str(sampled))
            pairs = zip(args.held_out, args.phones, strict=True)
            sets = [HeldOut(name, file, tokenizer) for name, file in pairs]
        for each in sets:
            scores = [each.scores(table["codebook.codes"]) for table in tables]
            (error, mutual), (all_error, all_mutual) = scores
            print(
                f"{codes:>7,}  {each.name[-26:]:<28}{error:>14.4f}{all_error:>8.4f}"
                f"{mutual:>14.4f}{all_mutual:>8.4f}",
                flush=True,
            )
        frames = json.loads((whole / "training/log.jsonl").read_text().splitlines()[-1])["frames"]
        print(f"         all frames are {frames:,}", flush=True)


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
        "--minutes",
        type=flags.positive,
        default=90,
        help="of speech that passes go over (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("nearest", "passes", "codes"),
        default=["nearest", "passes", "codes"],
        help="tables to print (default: all; codes needs --fit)",
    )
    compared = parser.add_argument_group("codes of a sample and of all frames")
    compared.add_argument("--fit", nargs="+", metavar="URL", help="audio shards to fit codes to")
    compared.add_argument(
        "--held-out", nargs="+", default=[], metavar="DIR", help="shards of other speakers"
    )
    compared.add_argument(
        "--phones", nargs="+", default=[], metavar="FILE", help="labels of each --held-out"
    )
    compared.add_argument(
        "--compared-codes",
        nargs="+",
        type=flags.positive,
        default=[1024, 4096],
        help="default: 1024 4096",
    )
    compared.add_argument(
        "--sample", type=flags.positive, default=40_000, help="frames (default: %(default)s)"
    )
    compared.add_argument(
        "--iterations",
        type=flags.positive,
        default=20,
        help="over the sample, before the passes (default: %(default)s)",
    )
    add_rates(parser)
    args = parser.parse_args()
    if len(args.held_out) != len(args.phones):
        raise flags.unusable(
            "--phones", len(args.phones), problem="each --held-out has one", remedy="give as many"
        )
    return args


def compare_passes(args: flags.argparse.Namespace, folder: Path) -> None:
    """Print the table of passes on one core and on two."""
    waves = make_utterances(60 * args.minutes // MEAN_SECONDS)
    seconds = 0.0
    for number in range(SHARDS):
        part = folder / "shards" / str(number)
        part.mkdir(parents=True)
        seconds += write_shards(part, waves[number::SHARDS], 1, repeats=1)
    print(
        f"\npasses over {seconds / 3600:.2f} h of speech, {args.codes:,} codes of {WIDTH} "
        "dimensions"
    )
    print("cores   first pass s   cached pass s   FAISS, as many threads, s   objectives")
    found, times = {}, {}
    for cores in (1, 2):
        log = passes(folder, cores, args.codes, count=args.passes)
        times[cores] = statistics.median(line["seconds"] for line in log[1:])
        found[cores] = [line["objective"] for line in log]
        peer = faiss_seconds(log[0]["frames"], args.codes, cores, turns=args.turns)
        shown = ", ".join(f"{value:.6g}" for value in found[cores])
        print(
            f"{cores:>5}{log[0]['seconds']:>15.1f}{times[cores]:>16.1f}{peer:>28.1f}   {shown}",
            flush=True,
        )
    same = "the same objectives" if found[1] == found[2] else "OTHER OBJECTIVES"
    print(f"{same}; a cached pass on two cores is {times[1] / times[2]:.2f} times as fast")


def main() -> int:
    """Print the tables."""
    args = parse()
    if "nearest" in args.only:
        rates = assignment(args.turns)
        record(args.rates, rates, unit="FLOP a second, one core", command="jobs/bench/kmeans.py")
    with tempfile.TemporaryDirectory(prefix="wavmill-bench-") as name:
        if "passes" in args.only:
            compare_passes(args, Path(name))
        if "codes" in args.only and args.fit:
            compare_codes(args, Path(name))
    return 0


if __name__ == "__main__":
    flags.run(main)
