"""Measure a causal tokenizer on a stream: time for each chunk of 80 ms, and the latency of a token.

Random weights, in the shapes of wavlm-tiny (8 layers of 256, cut at 4) and wavlm-large (24 of 1024,
cut at 6), with the compressor of `train_tokenizer --method distill`. Chunks are timed once the
encoder's past is full: 512 frames.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import statistics
import time

import numpy as np
import torch

from jobs.bench.support.models import SHAPES, random_tokenizer
from jobs.cli import flags
from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.tokenizer import Tokenizer


def chunk_seconds(tokenizer: Tokenizer, chunks: int) -> list[float]:
    """Seconds from the last sample of each chunk to its tokens."""
    past_frames, chunk_frames = tokenizer.past_and_chunk
    stream, size = tokenizer.stream(), chunk_frames * SAMPLES_PER_FRAME
    before = past_frames * SAMPLES_PER_FRAME
    wave = np.random.default_rng(0).standard_normal(before + (chunks + 1) * size) * 0.05
    wave = wave.astype(np.float32)
    start = before + RECEPTIVE_FIELD - SAMPLES_PER_FRAME
    stream.push(wave[:start])
    seconds = []
    for first in range(start, start + chunks * size, size):
        began = time.perf_counter()
        tokens = stream.push(wave[first : first + size])
        seconds.append(time.perf_counter() - began)
        assert len(tokens) == chunk_frames
    return seconds


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/bench/stream.py --threads 2 --chunks 200")
    parser.add_argument("--threads", type=flags.positive, default=2, help="default: %(default)s")
    parser.add_argument(
        "--chunks", type=flags.positive, default=200, help="to time (default: %(default)s)"
    )
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="default: %(default)s"
    )
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    args = parse()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, {args.precision}, {args.chunks} chunks")
    print(f"{'shape':<14}{'ms a chunk':>12}{'p95':>8}{'real time':>11}{'latency ms':>22}")
    for name in args.shapes:
        tokenizer = random_tokenizer(name, args.precision, causal=True)
        seconds = sorted(chunk_seconds(tokenizer, args.chunks))
        median, p95 = statistics.median(seconds), seconds[int(0.95 * len(seconds))]
        chunk = tokenizer.past_and_chunk[1] * SAMPLES_PER_FRAME / SAMPLE_RATE
        wait = 1000 * tokenizer.stream().latency_seconds
        print(
            f"{name:<14}{1000 * median:12.1f}{1000 * p95:8.1f}{median / chunk:11.3f}"
            f"{f'{wait:.0f} + {1000 * median:.1f} = {wait + 1000 * median:.1f}':>22}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    flags.run(main)
