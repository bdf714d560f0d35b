"""Measure the language model: how fast it speaks, and how fast it learns.

The `large` shape with random weights: tokens a second that one prompt is continued with, and tokens
a second of whole training steps (forward, backward, AdamW) against the same steps in plain PyTorch:
fp32, one dense mask, scaled_dot_product_attention. Rows take turns, so that a noisy machine slows
all of them alike; each row is the median of its turns.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.cli import flags
from lm.config import PRESETS, START, LMConfig
from lm.generation import Generator
from lm.model import NO_TARGET, SpeechLM, targets, token_losses
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.encoder.chunk_mask import chunk_causal_mask
from tokenizer.encoder.relative_position import position_buckets

CODES = 4096
# Steps of a generation's turn: a moment's noise of another process must not decide it.
STEPS = 20
THEIRS = (
    "Theirs: in a copy of github.com/lucadellalib/wavslm, `time python demo.py --num-continuations "
    "1 --max-gen-secs 24` and the same with 4: the 1,000 tokens between take the difference."
)


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__.strip(), "python jobs/bench/lm.py --layers 4 --turns 2")
    parser.add_argument("--preset", choices=PRESETS, default="large")
    parser.add_argument("--layers", type=flags.positive, help="in place of the preset's")
    parser.add_argument("--chunk", type=flags.positive, default=4, help="default: %(default)s")
    parser.add_argument("--rows", type=flags.positive, default=1, help="of a training step")
    parser.add_argument(
        "--row-tokens", type=flags.positive, default=1024, help="of one (default: %(default)s)"
    )
    parser.add_argument("--turns", type=flags.positive, default=3, help="of each row")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    args = parse()
    device, _ = flags.device_and_precision(flags.argparse.Namespace(**vars(args), precision="bf16"))
    shape = dict(PRESETS[args.preset])
    shape["layers"] = args.layers or shape["layers"]
    torch.manual_seed(0)
    config = LMConfig(codebook_size=CODES, **shape, chunk=args.chunk, inputs="embedding")
    model = SpeechLM(config).to(device)
    size = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(
        f"{args.preset}, {config.layers} layers, {size:.0f} M parameters with the table of inputs, "
        f"chunk {config.chunk}, on {device}, {torch.get_num_threads()} threads"
    )
    print(f"{'row':<44}{'tokens/s':>9}", flush=True)
    generation(model, args.turns)
    training(model, args)
    print(THEIRS)
    return 0


def generation(model: SpeechLM, turns: int) -> None:
    """Batch 1, with the window full."""
    prompt = np.random.default_rng(0).integers(0, CODES, model.config.window)
    streams = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        own = copy.deepcopy(model)
        own.encoder.to(dtype)
        own.head.to(dtype)
        streams[precision] = Generator(own).chunks([prompt], [0])
        next(streams[precision])
        del own
    rows = {name: lambda stream=stream: speak(stream) for name, stream in streams.items()}
    chunk = model.config.chunk
    for name, seconds in by_turns(rows, turns).items():
        rate = STEPS * chunk / seconds
        note = f"{rate / FRAMES_PER_SECOND:5.2f} x real time at 50 tokens a second"
        show(f"generation, {name}, batch 1", rate, f"{note}, {1e3 * seconds / STEPS:.1f} ms a step")


def speak(stream) -> None:
    """Some steps."""
    for _ in range(STEPS):
        next(stream)


def training(model: SpeechLM, args) -> None:
    """Whole steps of both, on the same weights."""
    model.train()
    config, device = model.config, model.head.weight.device
    length = args.row_tokens // config.chunk * config.chunk
    tokens = torch.randint(0, CODES, (args.rows, length), device=device)
    tokens[:, : config.chunk] = START
    utterance = torch.zeros_like(tokens, dtype=torch.int32)
    wanted = targets(tokens, utterance, config.chunk)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def ours() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(tokens, utterance)
        finish(token_losses(logits, wanted).sum() / (wanted >= 0).sum())

    def plain() -> None:
        logits = plain_logits(model, tokens, utterance)
        finish(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=NO_TARGET))

    def finish(loss: Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    names = "training, ours, bf16", "training, plain PyTorch, fp32, dense mask"
    seconds = by_turns(dict(zip(names, (ours, plain))), args.turns)
    ratio = seconds[names[1]] / seconds[names[0]]
    for name, note in zip(names, (f"{ratio:5.2f} x plain PyTorch", "")):
        spent = f"{seconds[name]:.2f} s a step of {args.rows} x {length}"
        show(name, tokens.numel() / seconds[name], f"{note + ', ' if note else ''}{spent}")


def plain_logits(model: SpeechLM, tokens: Tensor, utterance: Tensor) -> Tensor:
    """The same model the plain way: one mask of every position against every other."""
    config, length = model.config, tokens.shape[1]
    place = torch.arange(length, device=tokens.device)
    query, key = place[:, None], place[None, :]
    buckets = position_buckets(length, config).to(tokens.device)[key - query + length - 1]
    bias = model.encoder.relative_embedding(buckets).permute(2, 0, 1)
    seen = chunk_causal_mask(query, key, chunk=config.chunk, window=config.window)
    seen = seen & (utterance[:, :, None] == utterance[:, None, :])
    mask = torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -torch.inf)[:, None]

    def attend(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        scores = gate[..., None] * bias + mask
        return F.scaled_dot_product_attention(q, k, v, attn_mask=scores)

    x = model.inputs(tokens, utterance)
    for layer in model.encoder.layers:
        x = layer(x, attend)
    return model.head(model.encoder.norm(x))


def by_turns(rows: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """The median seconds of each, after one run that is not counted."""
    seconds = {name: [] for name in rows}
    for turn in range(turns + 1):
        for name, run in rows.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(own) for name, own in seconds.items()}


def show(name: str, rate: float, note: str) -> None:
    """One line of the table."""
    print(f"{name:<44}{rate:9.1f}  {note}", flush=True)


if __name__ == "__main__":
    flags.run(main)
