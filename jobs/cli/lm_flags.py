"""Flags of jobs/train_lm.py: a language model's shape, how it learns, and where."""

from jobs.cli import flags
from lm.config import INPUTS, PRESETS, LMConfig
from lm.training.trainer import TrainingSettings


def add_shape(shape) -> None:
    """The flags of LMConfig, and where weights start."""
    shape.add_argument(
        "--preset",
        choices=PRESETS,
        default="tiny",
        help="layers: 4 of 256, 6 of 768, 18 of 1024 (default: %(default)s)",
    )
    for name in ("width", "layers", "heads", "feed-forward"):
        shape.add_argument(f"--{name}", type=flags.positive, help="in place of the preset's")
    shape.add_argument(
        "--chunk",
        type=flags.positive,
        default=4,
        help="tokens predicted at once; 1 is plain next-token (default: %(default)s)",
    )
    shape.add_argument(
        "--window", type=flags.positive, default=512, help="past tokens seen (default: %(default)s)"
    )
    shape.add_argument(
        "--inputs",
        choices=INPUTS,
        help="a token's vector: what the tokenizer's codes are (default), what its causal "
        "decompressor makes of them, or learned (default without --tokenizer)",
    )
    shape.add_argument(
        "--start",
        choices=("wavlm", "scratch"),
        help="wavlm: from the layers of --encoder above the tokenizer's (default if it is given)",
    )
    shape.add_argument("--encoder", metavar="URL", help="the WavLM: folder, URL or hub id")


def add_training(how) -> None:
    """The flags of TrainingSettings."""
    whole, number = flags.positive, flags.positive_number
    how.add_argument("--steps", type=whole, default=20_000, help="default: %(default)s")
    how.add_argument(
        "--rows",
        type=whole,
        default=16,
        help="rows in a batch, over all processes (default: %(default)s)",
    )
    how.add_argument(
        "--row-tokens", type=whole, default=512, help="length of one (default: %(default)s)"
    )
    how.add_argument(
        "--accumulate",
        type=whole,
        default=1,
        help="parts of a batch, one after another, to save memory (default: 1)",
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
        "--noise",
        type=flags.rate,
        default=0.0,
        help="share of the tokens that are replaced in what the model sees (default: none)",
    )
    how.add_argument(
        "--validate-every",
        type=flags.count,
        default=1000,
        metavar="STEPS",
        help="and at the end; 0: at the end alone (default: %(default)s)",
    )
    how.add_argument(
        "--keep-best",
        action="store_true",
        help="the model of the best validation instead of the last step's",
    )
    how.add_argument("--seed", type=flags.count, default=0, help="of all draws (default: 0)")


def add_places(where) -> None:
    """Device, processes, checkpoints."""
    where.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 where it is fast (default: %(default)s)",
    )
    where.add_argument(
        "--workers", type=flags.positive, default=1, help="processes, one a GPU (default: 1)"
    )
    where.add_argument("--compile", action="store_true", help="torch.compile the model")
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=5, help="default: %(default)g"
    )
    where.add_argument(
        "--keep", type=flags.positive, default=3, help="newest checkpoints (default: %(default)s)"
    )
    where.add_argument(
        "--log-every", type=flags.positive, default=20, metavar="STEPS", help="default: %(default)s"
    )


def model_config(args: flags.argparse.Namespace, files, codebook_size: int) -> LMConfig:
    """The preset's shape, with what flags replace of it."""
    shape = dict(PRESETS[args.preset])
    shape |= {name: value for name in shape if (value := getattr(args, name))}
    inputs = args.inputs or ("codes" if files else "embedding")
    if inputs != "embedding" and not files:
        raise flags.unusable(
            "--inputs", inputs, "there is no --tokenizer", "give one or leave it out"
        )
    return LMConfig(
        codebook_size=codebook_size,
        **shape,
        chunk=args.chunk,
        window=args.window,
        inputs=inputs,
        dropout=args.dropout,
    )


def training_settings(args: flags.argparse.Namespace, precision: str) -> TrainingSettings:
    """From the flags of add_training and add_places. precision: what "auto" comes to."""
    names = ("steps", "rows", "row_tokens", "accumulate", "workers", "learning_rate", "warm_up")
    names += ("weight_decay", "clip_norm", "noise", "optimizer", "validate_every", "keep_best")
    return TrainingSettings(
        **{name: getattr(args, name) for name in names}, precision=precision, seed=args.seed
    )
