"""Flags of jobs/train_lm.py: a language model's shape, how it is trained, and where."""

import argparse
from typing import Any

from jobs.cli import flags
from lm.config import INPUTS, PRESETS


def add_shape(shape: argparse._ArgumentGroup) -> None:
    """The flags of LMConfig, and the weights it starts from.

    Those that are not given are None or False: jobs/cli/training/lm_start.py has their defaults.
    """
    shape.add_argument(
        "--start",
        metavar="URL",
        help="go on from this language model's folder: its weights, shape and tokenizer; none of "
        "the flags below goes with it",
    )
    shape.add_argument(
        "--preset",
        choices=PRESETS,
        help="layers: 4 of width 256, 6 of 768, 18 of 1024 (default: tiny)",
    )
    for name in ("width", "layers", "heads", "feed-forward"):
        shape.add_argument(f"--{name}", type=flags.positive, help="instead of the preset's")
    shape.add_argument(
        "--chunk",
        type=flags.positive,
        help="tokens predicted at once; 1 is plain next-token (default: 4)",
    )
    shape.add_argument(
        "--window", type=flags.positive, help="past tokens that are attended to (default: 512)"
    )
    shape.add_argument(
        "--inputs",
        choices=INPUTS,
        help="a token's input vector: the tokenizer's code (default), what its causal decompressor "
        "makes of the codes so far, or a learned embedding (default without --tokenizer)",
    )
    shape.add_argument(
        "--no-start-chunk",
        action="store_true",
        help="no chunk of START before an utterance, and the tokenizer's features as they are, as "
        "published WavSLM models have it: the first chunk is not predicted, and generation needs "
        "a prompt",
    )
    shape.add_argument(
        "--initialize",
        choices=("wavlm", "scratch"),
        help="wavlm: from the layers of --encoder above the tokenizer's (default with --encoder)",
    )
    shape.add_argument("--encoder", metavar="URL", help="the WavLM: folder, URL or hub id")


def add_training(how: argparse._ArgumentGroup) -> None:
    """The flags of LMTrainingSettings."""
    whole, number = flags.positive, flags.positive_number
    how.add_argument("--steps", type=whole, default=20_000, help="default: %(default)s")
    how.add_argument(
        "--rows",
        type=whole,
        default=16,
        help="rows in a batch, over all processes (default: %(default)s)",
    )
    how.add_argument(
        "--row-tokens", type=whole, default=512, help="length of a row (default: %(default)s)"
    )
    how.add_argument(
        "--accumulate",
        type=whole,
        default=1,
        help="parts that a batch is computed in, to save memory (default: 1)",
    )
    how.add_argument("--learning-rate", type=number, default=1e-3, help="default: %(default)g")
    how.add_argument(
        "--warm-up", type=flags.rate, default=0.03, help="share of the steps (default: %(default)s)"
    )
    how.add_argument(
        "--optimizer", choices=("adamw", "muon"), default="adamw", help="default: %(default)s"
    )
    how.add_argument(
        "--weight-decay", type=flags.not_negative, default=0.1, help="default: %(default)s"
    )
    how.add_argument("--clip-norm", type=number, default=1.0, help="default: %(default)s")
    how.add_argument("--dropout", type=flags.rate, default=0.0, help="default: none")
    how.add_argument(
        "--token-noise",
        type=flags.rate,
        default=0.0,
        help="share of the input tokens that are replaced by random ones (default: none)",
    )
    add_earlier_name(how, "--noise", "token_noise", type=flags.rate)
    how.add_argument(
        "--validate-every",
        type=flags.count,
        default=1000,
        metavar="STEPS",
        help="and at the end; 0: only at the end (default: %(default)s)",
    )
    how.add_argument(
        "--keep-best",
        action="store_true",
        help="write the model of the best validation instead of the last step's",
    )
    how.add_argument("--seed", type=flags.count, default=0, help="of all draws (default: 0)")


def add_places(where: argparse._ArgumentGroup) -> None:
    """Device, processes, checkpoints."""
    flags.add_device(where)
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 where the device is fast at it (default: %(default)s)",
    )
    where.add_argument(
        "--workers",
        type=flags.positive,
        default=1,
        help="processes that train, one per GPU (default: 1)",
    )
    where.add_argument("--compile", action="store_true", help="torch.compile the model")
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=5, help="default: %(default)g"
    )
    where.add_argument(
        "--keep",
        type=flags.positive,
        default=3,
        help="newest checkpoints to keep (default: %(default)s)",
    )
    where.add_argument(
        "--log-every", type=flags.positive, default=20, metavar="STEPS", help="default: %(default)s"
    )


def add_earlier_name(
    group: argparse._ArgumentGroup, name: str, destination: str, **more: Any
) -> None:
    """A flag's earlier name: it still works, and --help does not show it."""
    group.add_argument(
        name, dest=destination, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **more
    )
