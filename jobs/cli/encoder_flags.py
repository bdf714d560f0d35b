"""Flags of jobs/train_encoder.py: where it starts, the encoder's shape, the rounds of training."""

from pathlib import Path

from transformers import WavLMConfig

from jobs.cli import flags
from pipeline.settings import Round
from tokenizer.storage.fetch import fetch_folder

# In round 1, and in later ones, which need less to begin with.
HEARD_WEIGHTS = 0.5, 0.3
# What a new encoder is like where no flag says otherwise.
SHAPE = {"width": 256, "layers": 8, "heads": 4, "conv_widths": [64, 128, 128, 128, 256, 256, 256]}


def add_start_shape_rounds(parser: flags.argparse.ArgumentParser) -> None:
    """--start and --keep-layers, the shape's flags and those that have a value for each round."""
    start = parser.add_argument_group("going on from an encoder")
    start.add_argument(
        "--start",
        metavar="URL",
        help="a WavLM of layer norms: wavlm-tiny, a folder or URL, or the hub id "
        "microsoft/wavlm-large; its shape is the encoder's",
    )
    start.add_argument(
        "--keep-layers",
        type=flags.positive,
        default=0,
        help="leave so many of its layers, and the convolutions, as they are: tokenizers at those "
        "layers stay the same (default: train all)",
    )
    shape = parser.add_argument_group("the encoder's shape, without --start")
    for name, value in SHAPE.items():
        shape.add_argument(
            "--" + name.replace("_", "-"),
            type=flags.positive,
            nargs=len(value) if isinstance(value, list) else None,
            help=f"default: {value}",
        )
    rounds = parser.add_argument_group("rounds, a value each")
    rounds.add_argument(
        "--steps",
        type=flags.positive,
        nargs="+",
        default=[1500, 5000],
        help="of training (default: %(default)s)",
    )
    rounds.add_argument(
        "--codes",
        type=flags.positive,
        nargs="+",
        default=[100, 200],
        help="labels (default: %(default)s)",
    )
    rounds.add_argument(
        "--label-layers",
        type=flags.positive,
        nargs="*",
        default=[5],
        help="whose features are the labels of round 2, 3, ..., with --start of round 1, 2, ... "
        "(default: %(default)s)",
    )
    rounds.add_argument(
        "--whiten",
        type=flags.positive,
        default=0,
        metavar="DIMENSIONS",
        help="cluster so many principal components of the features, scaled to unit variance "
        "(default: the features as they are)",
    )
    rounds.add_argument(
        "--heard-weights",
        type=flags.rate,
        nargs="+",
        help="weight of frames that are not masked in the loss; without any a short round learns "
        "little (default: {} in round 1, {} later)".format(*HEARD_WEIGHTS),
    )
    rounds.add_argument(
        "--spectrum-steps",
        type=flags.count,
        default=1000,
        help="before round 1, in which the convolutions learn what a spectrum is "
        "(default: %(default)s)",
    )


def start_and_shape(args: flags.argparse.Namespace) -> tuple[Path | None, WavLMConfig]:
    """A local copy of --start, if it is given, and the shape of the encoder.

    Raises UsageError where there is no such encoder, or none that can be trained, where it is to
    have another shape, or where --whiten or --keep-layers ask for more than it has.
    """
    if args.start:
        for name in SHAPE:
            if getattr(args, name) is not None:
                raise flags.unusable(
                    "--" + name.replace("_", "-"),
                    getattr(args, name),
                    "an encoder that is there keeps its shape",
                    "leave it out, or --start",
                )
    started = (
        flags.named("--start", fetch_folder, args.start, "a WavLM", hub=True)
        if args.start
        else None
    )
    config = _shape_of(started, args.start) if started else _new_shape(args)
    if args.keep_layers and not started:
        raise flags.unusable(
            "--keep-layers", args.keep_layers, "there is no --start", "give one, or leave it out"
        )
    for flag, value, most in (
        ("--whiten", args.whiten, config.hidden_size),
        ("--keep-layers", args.keep_layers, config.num_hidden_layers - 1),
    ):
        if value > most:
            raise flags.unusable(flag, value, f"{most} is the most this encoder has", "lower it")
    return started, config


def _new_shape(args: flags.argparse.Namespace) -> WavLMConfig:
    """wavlm-large's structure in the flags' widths. Raises UsageError for an impossible one."""
    given = {name: getattr(args, name) for name in SHAPE}
    shape = SHAPE | {name: value for name, value in given.items() if value is not None}
    width, heads = shape["width"], shape["heads"]
    if width % heads or width % 16:
        raise flags.unusable(
            "--width",
            width,
            f"it does not divide by --heads {heads} and by the position embedding's 16 groups",
            "give a multiple of both",
        )
    return WavLMConfig(
        hidden_size=width,
        num_hidden_layers=shape["layers"],
        num_attention_heads=heads,
        intermediate_size=4 * width,
        conv_dim=shape["conv_widths"],
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )


def _shape_of(folder: Path, name: str) -> WavLMConfig:
    """The shape of the encoder to go on from. Raises UsageError if such a one is not trained."""
    config = WavLMConfig.from_pretrained(folder)
    if config.feat_extract_norm != "layer" or not config.do_stable_layer_norm:
        raise flags.unusable(
            "--start",
            name,
            "only the structure of wavlm-large is trained",
            "give one of layer norms",
        )
    return config


def label_rounds(args: flags.argparse.Namespace, layers: int) -> list[Round]:
    """The rounds. Raises UsageError unless their flags have a value for each."""
    count = len(args.steps)
    first, later = HEARD_WEIGHTS
    heard = args.heard_weights or [later if args.start else first] + [later] * (count - 1)
    for flag, values, needed in (
        ("--codes", args.codes, count),
        ("--heard-weights", heard, count),
        ("--label-layers", args.label_layers, count - (not args.start)),
    ):
        if len(values) != needed:
            raise flags.unusable(
                flag,
                " ".join(map(str, values)),
                f"--steps asks for {count} rounds",
                f"give {needed} values",
            )
    if args.label_layers and max(args.label_layers) > layers:
        raise flags.unusable(
            "--label-layers",
            " ".join(map(str, args.label_layers)),
            f"the encoder has {layers} layers",
            "give lower ones",
        )
    labelled = args.label_layers if args.start else [None, *args.label_layers]
    return [Round(*own) for own in zip(args.steps, args.codes, labelled, heard)]
