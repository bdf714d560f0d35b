"""Measure the page of jobs/serve.py: time from the end of a chunk to its tokens and to its sound.

Random weights, in the shapes of wavlm-tiny with a small language model and of wavlm-large with a
large one. Tabs send pieces of 20 ms at the pace of speech, over sockets to the server itself, once
the encoder's past of 512 frames is full. Then one of them asks for a continuation: at once, and
again some seconds later, when the server has taken the prompt through its models.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from websockets.sync.client import ClientConnection, connect

from jobs.bench.support.models import SHAPES, random_files, with_vocoder
from jobs.cli import flags
from jobs.serving.app import in_background, make_app
from jobs.serving.models import ServedModels
from lm.config import PRESETS, LMConfig
from lm.generation import Generator
from lm.model import SpeechLM
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.tokenizer import PRECISIONS, Tokenizer

PIECE, PAST_SECONDS, CONTINUED_SECONDS = 320, 11, 5
PAUSE_SECONDS = 6.0
# Samples of a chunk, and those that its last frame sees past it.
CHUNK, PAST = 4 * PIECE, 80
MODELS = {"wavlm-tiny": "tiny", "wavlm-large": "large"}


def made(name: str, precision: str) -> ServedModels:
    """A causal tokenizer with a vocoder, and a language model. precision: of the latter."""
    files = with_vocoder(random_files(name, causal=True))
    shape: dict[str, Any] = PRESETS[MODELS[name]]
    config = LMConfig(codebook_size=files.codebook_size, **shape)
    model = SpeechLM.from_tokenizer(config, files).eval().to_precision(PRECISIONS[precision])
    return ServedModels(Tokenizer(files), Generator(model), name)


def speak(socket: ClientConnection, chunks: int) -> tuple[list[float], list[float]]:
    """Seconds from the end of each chunk to its tokens, and to the first sound after them."""
    random, first = np.random.default_rng(0), PAST_SECONDS * SAMPLE_RATE
    noise = (0.05 * random.standard_normal(first)).astype("<f4")
    say(socket, "start", sample_rate=SAMPLE_RATE)
    socket.send(noise.tobytes())
    end = 0
    while end < first - CHUNK - PAST:  # the rest of a chunk waits for what comes
        end = read(socket).get("end", end)
    while read(socket)["type"] != "sound":
        pass
    last = end + chunks * CHUNK
    tokens: list[float] = []
    sound: list[float] = []
    waiting: list[float] = []
    with ThreadPoolExecutor(1) as sender:
        began = time.perf_counter()
        sending = sender.submit(send_in_time, socket, noise, chunks)
        while end < last or waiting:
            message, now = read(socket), time.perf_counter()
            if message["type"] == "tokens":
                end = message["end"]
                # The piece that a chunk's end lies in goes out when its last sample is spoken.
                waiting = [
                    began + -(-(chunk_end - first) // PIECE) * PIECE / SAMPLE_RATE
                    for chunk_end in range(message["first_end"], end + 1, CHUNK)
                ]
                tokens += [now - since for since in waiting]
            elif message["type"] == "sound":
                sound += [now - since for since in waiting]
                waiting = []
        sending.result()
    say(socket, "finish")
    while read(socket)["type"] != "finished":
        pass
    return tokens, sound


def send_in_time(socket: ClientConnection, noise: np.ndarray, chunks: int) -> None:
    """Pieces at the pace of speech: each when its last sample would have been spoken."""
    began = time.perf_counter()
    for number in range(4 * (chunks + 1)):
        time.sleep(max(0.0, began + (number + 1) * PIECE / SAMPLE_RATE - time.perf_counter()))
        socket.send(noise[:PIECE].tobytes())


def go_on(socket: ClientConnection) -> tuple[float, float]:
    """Seconds from asking to the first sound; seconds of speech made in a second."""
    began, first = time.perf_counter(), 0.0
    say(socket, "continue", seconds=CONTINUED_SECONDS, seed=0)
    while (message := read(socket))["type"] != "continued":
        if message["type"] == "sound" and not first:
            first = time.perf_counter() - began
    return first, CONTINUED_SECONDS / (time.perf_counter() - began)


def say(socket: ClientConnection, kind: str, **values: object) -> None:
    """Send a command."""
    socket.send(json.dumps({"type": kind, **values}))


def read(socket: ClientConnection) -> dict:
    """The next message; sound is of type "sound"."""
    message = socket.recv(timeout=120)
    if isinstance(message, bytes):
        return {"type": "sound"}
    read = json.loads(message)
    if read["type"] == "error":
        raise RuntimeError(read["message"])
    return read


def measure(name: str, tabs: int, chunks: int, precision: str) -> str:
    """A row of the table."""
    models = made(name, precision)
    with in_background(make_app(models, "127.0.0.1")) as port, ExitStack() as open_tabs:
        address = f"ws://127.0.0.1:{port}/speak"
        sockets = [
            open_tabs.enter_context(connect(address, max_size=None, compression=None))
            for _ in range(tabs)
        ]
        for socket in sockets:
            read(socket)
        with ThreadPoolExecutor(tabs) as pool:
            spoken = list(pool.map(speak, sockets, [chunks] * tabs))
        first, rate = go_on(sockets[0])
        time.sleep(PAUSE_SECONDS)
        later, _ = go_on(sockets[0])
    models.close()
    cells = f"{name:<13}{tabs:>5}"
    for part in range(2):
        seconds = sorted(second for each in spoken for second in each[part])
        median, p95 = statistics.median(seconds), seconds[int(0.95 * len(seconds))]
        cells += f"{1000 * median:>10.1f}{1000 * p95:>8.1f}"
    return cells + f"{1000 * first:>14.0f}{1000 * later:>8.0f}{rate:>13.2f}"


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/bench/serve.py --threads 2 --tabs 1 2 --chunks 100")
    parser.add_argument("--threads", type=flags.positive, default=2, help="default: %(default)s")
    parser.add_argument(
        "--chunks", type=flags.positive, default=100, help="to time (default: %(default)s)"
    )
    parser.add_argument(
        "--tabs", type=flags.positive, nargs="+", default=[1, 2], help="at once (default: 1 2)"
    )
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="bf16", help="of the language model (bf16)"
    )
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    args = parse()
    torch.set_num_threads(args.threads)
    print(
        f"{args.threads} threads, the language model in {args.precision}; ms, {args.chunks} chunks"
    )
    print(f"{'shape':<13}{'tabs':>5}{'tokens':>10}{'p95':>8}{'sound':>10}{'p95':>8}", end="")
    print(f"{'continuation':>14}{'later':>8}{'x real time':>13}")
    for name in args.shapes:
        for tabs in args.tabs:
            print(measure(name, tabs, chunks=args.chunks, precision=args.precision), flush=True)
    return 0


if __name__ == "__main__":
    flags.run(main)
