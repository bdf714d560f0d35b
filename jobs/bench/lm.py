"""Measure the language model: tokens a second of generation, and of training.

The `large` shape with random weights. Generation continues a batch of prompts; with --decompressor
the inputs are those of published WavSLM models, and only generation is measured. Training is whole
steps (forward, backward, AdamW), against the same steps in plain PyTorch: fp32, one dense mask,
scaled_dot_product_attention. Rows take turns, so that a noisy machine slows all of them alike; each
row is the median of its turns.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.bench.support.timing import Row, take_turns
from jobs.cli import flags
from lm.config import PRESETS, START, LMConfig
from lm.generation import Generator
from lm.model import NO_TARGET, SpeechLM, targets, token_losses
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.config import FocalConfig
from tokenizer.encoder.chunk_mask import chunk_causal_mask
from tokenizer.encoder.relative_position import position_buckets

CODES = 4096
# Steps in a turn of generation: with fewer, a short disturbance would decide the result.
STEPS = 20
THEIRS = (
    "Theirs: in a copy of github.com/lucadellalib/wavslm, `time python demo.py --num-continuations "
    "1 --max-gen-secs 24` and the same with 4: the 1,000 tokens between take the difference."
)


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/bench/lm.py --layers 4 --turns 2")
    parser.add_argument("--preset", choices=PRESETS, default="large", help="default: %(default)s")
    parser.add_argument("--layers", type=flags.positive, help="default: the preset's")
    parser.add_argument("--chunk", type=flags.positive, default=4, help="default: %(default)s")
    parser.add_argument(
        "--batch", type=flags.positive, default=1, help="prompts to continue (default: %(default)s)"
    )
    parser.add_argument(
        "--decompressor",
        action="store_true",
        help="inputs from a causal decompressor of three focal blocks, and no START",
    )
    parser.add_argument(
        "--rows", type=flags.positive, default=1, help="in a training step (default: %(default)s)"
    )
    parser.add_argument(
        "--row-tokens", type=flags.positive, default=1024, help="in a row (default: %(default)s)"
    )
    parser.add_argument(
        "--turns", type=flags.positive, default=3, help="of each row (default: %(default)s)"
    )
    flags.add_device(parser)
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    args = parse()
    device = flags.chosen_device(args)
    torch.manual_seed(0)
    shape: dict[str, Any] = PRESETS[args.preset] | {"chunk": args.chunk, "inputs": "embedding"}
    config = LMConfig(codebook_size=CODES, **shape)
    config = replace(config, layers=args.layers or config.layers)
    if args.decompressor:
        config = published_inputs(config)
    model = SpeechLM(config).to(device)
    size = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(
        f"{args.preset}, {config.layers} layers, {size:.0f} M parameters with those of its inputs, "
        f"chunk {config.chunk}, on {device}, {torch.get_num_threads()} threads"
    )
    print(f"{'row':<44}{'tokens/s':>9}", flush=True)
    generation(model, args.turns, batch=args.batch)
    if not args.decompressor:
        training(model, args)
    print(THEIRS)
    return 0


def published_inputs(config: LMConfig) -> LMConfig:
    """The shape with a decompressor of focalcodec_50hz_4k_causal's kind, its width the model's."""
    width = config.width
    decompressor = FocalConfig(
        width=width,
        latent=12,
        hidden=(width,) * 3,
        factors=(1,) * 3,
        focal_window=14,
        focal_factor=4,
        causal=True,
        chunk_frames=config.chunk,
    )
    window = config.window - config.chunk
    return replace(
        config, inputs="decompressor", decompressor=decompressor, start=False, window=window
    )


def generation(model: SpeechLM, turns: int, batch: int) -> None:
    """Prompts side by side, with the window full."""
    length = model.config.window // model.config.chunk * model.config.chunk
    prompts = list(np.random.default_rng(0).integers(0, CODES, (batch, length)))
    rows = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        cast = copy.deepcopy(model).to_precision(dtype)
        stream = Generator(cast).chunks(prompts, list(range(batch)))
        next(stream)
        del cast
        name = f"generation, {precision}, batch {batch}"
        rows.append(Row(name=name, run=partial(take_steps, stream), memory=False))
    take_turns(rows, turns)
    for row in rows:
        rate = STEPS * model.config.chunk * batch / row.median
        note = f"{rate / FRAMES_PER_SECOND:5.2f} x real time at 50 tokens a second"
        show(row.name, rate, f"{note}, {1e3 * row.median / STEPS:.1f} ms a step")


def take_steps(stream: Iterator[list[np.ndarray]]) -> None:
    """STEPS steps of one generation."""
    for _ in range(STEPS):
        next(stream)


def training(model: SpeechLM, args: flags.argparse.Namespace) -> None:
    """Whole steps, ours and in plain PyTorch, on the same weights."""
    model.train()
    config, device = model.config, model.head.weight.device
    length = args.row_tokens // config.chunk * config.chunk
    tokens = torch.randint(0, CODES, (args.rows, length), device=device)
    tokens[:, : config.chunk] = START
    utterance = torch.zeros_like(tokens, dtype=torch.int32)
    target = targets(tokens, utterance, config.chunk)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def our_step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(tokens, utterance)
        finish(token_losses(logits, target).sum() / (target >= 0).sum())

    def plain_step() -> None:
        logits = plain_logits(model, tokens, utterance)
        finish(F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=NO_TARGET))

    def finish(loss: Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    ours = Row(name="training, ours, bf16", run=our_step, memory=False)
    name = "training, plain PyTorch, fp32, dense mask"
    plain = Row(name=name, run=plain_step, memory=False)
    take_turns((ours, plain), args.turns)
    ratio = plain.median / ours.median
    for row, note in ((ours, f"{ratio:5.2f} x plain PyTorch, "), (plain, "")):
        note += f"{row.median:.2f} s a step of {args.rows} x {length}"
        show(row.name, tokens.numel() / row.median, note)


def plain_logits(model: SpeechLM, tokens: Tensor, utterance: Tensor) -> Tensor:
    """The same model in plain PyTorch: one dense mask of every position against every other."""
    config, length = model.config, tokens.shape[1]
    position = torch.arange(length, device=tokens.device)
    query, key = position[:, None], position[None, :]
    buckets = position_buckets(length, config).to(tokens.device)[key - query + length - 1]
    bias = model.encoder.relative_embedding(buckets).permute(2, 0, 1)
    visible = chunk_causal_mask(query, key, chunk=config.chunk, window=config.window)
    visible = visible & (utterance[:, :, None] == utterance[:, None, :])
    mask = torch.zeros(visible.shape, device=tokens.device).masked_fill(~visible, -torch.inf)
    mask = mask[:, None]

    def attend(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        scores = gate[..., None] * bias + mask
        return F.scaled_dot_product_attention(q, k, v, attn_mask=scores)

    x = model.inputs(tokens, utterance)
    for layer in model.encoder.layers:
        x = layer(x, attend)
    return model.head(model.encoder.norm(x))


def show(name: str, rate: float, note: str) -> None:
    """One line of the table."""
    print(f"{name:<44}{rate:9.1f}  {note}", flush=True)


if __name__ == "__main__":
    flags.run(main)
