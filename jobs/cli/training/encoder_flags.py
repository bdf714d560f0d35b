"""Flags of jobs/train_encoder.py: where it starts, the encoder's shape, the rounds of training."""

import argparse

from jobs.cli import flags

# Of frames that are not masked: in round 1, and in later rounds, which need less.
HEARD_WEIGHTS = 0.5, 0.3
# A new encoder's shape where no flag says otherwise.
SHAPE = {
    "width": 256,
    "layers": 8,
    "heads": 4,
    "conv_widths": [64, 128, 128, 128, 256, 256, 256],
}


def add_start_shape_rounds(parser: argparse.ArgumentParser) -> None:
    """--start and --keep-layers, the shape's flags, and those that take a value for each round."""
    start = parser.add_argument_group("starting from an encoder")
    start.add_argument(
        "--start",
        metavar="URL",
        help="a WavLM with layer norms: wavlm-tiny, a folder or URL, or the hub id "
        "microsoft/wavlm-large; its shape is the encoder's",
    )
    start.add_argument(
        "--keep-layers",
        type=flags.positive,
        default=0,
        help="keep its first layers, this many, and the convolutions as they are: tokenizers at "
        "those layers stay the same (default: train all)",
    )
    shape = parser.add_argument_group("the encoder's shape, without --start")
    for name, value in SHAPE.items():
        shape.add_argument(
            "--" + name.replace("_", "-"),
            type=flags.positive,
            nargs=len(value) if isinstance(value, list) else None,
            help=f"default: {value}",
        )
    rounds = parser.add_argument_group("rounds, one value for each")
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
        help="the layers whose features are clustered for the labels of round 2, 3, ..., with "
        "--start of round 1, 2, ... (default: %(default)s)",
    )
    rounds.add_argument(
        "--whiten",
        type=flags.positive,
        default=0,
        metavar="DIMENSIONS",
        help="cluster this many principal components of the features, scaled to unit variance "
        "(default: the features as they are)",
    )
    rounds.add_argument(
        "--heard-weights",
        type=flags.rate,
        nargs="+",
        help="weight in the loss of frames that are not masked; with 0, a short round learns "
        f"little (default: {HEARD_WEIGHTS[0]} in round 1, {HEARD_WEIGHTS[1]} later)",
    )
    rounds.add_argument(
        "--spectrum-steps",
        type=flags.count,
        default=1000,
        help="before round 1, in which the convolutions learn to give a spectrum "
        "(default: %(default)s)",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """How it is trained, and on what sound."""
    learning = parser.add_argument_group("learning")
    learning.add_argument("--learning-rate", type=flags.positive_number, default=2e-3)
    learning.add_argument(
        "--rows", type=flags.positive, default=8, help="rows in a batch (default: %(default)s)"
    )
    learning.add_argument(
        "--row-seconds", type=flags.positive_number, default=3, help="default: %(default)g"
    )
    learning.add_argument(
        "--mask-share", type=flags.rate, default=0.4, help="of frames (default: %(default)g)"
    )
    learning.add_argument(
        "--mask-span", type=flags.positive, default=5, help="frames (default: %(default)s)"
    )
    sound = parser.add_argument_group("how the sound is changed; the labels stay")
    sound.add_argument(
        "--speed",
        type=flags.rate,
        default=0.15,
        help="speed changes by up to this share (default: %(default)g)",
    )
    sound.add_argument(
        "--rooms",
        type=flags.rate,
        default=0.3,
        help="share of rows in a room (default: %(default)g)",
    )
    sound.add_argument(
        "--mixing",
        type=flags.rate,
        default=0.15,
        help="share of rows with another's speech laid over (default: %(default)g)",
    )
    sound.add_argument(
        "--noise-share",
        type=flags.rate,
        default=0.1,
        help="share of rows with noise laid over, with --noise (default: %(default)g)",
    )
    sound.add_argument(
        "--channels",
        type=flags.rate,
        default=0.5,
        help="share of rows through another microphone and line (default: %(default)g)",
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Device, processes, checkpoints."""
    where = parser.add_argument_group("where it runs")
    flags.add_device(where)
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 on a device that has it, where it is twice as fast (default: %(default)s)",
    )
    where.add_argument(
        "--readers",
        type=flags.count,
        help="processes that read and mix audio (default: 4 with a GPU; 0 on a CPU, where they "
        "would slow the training down)",
    )
    flags.add_encoder_actors(where)
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=2, help="default: %(default)g"
    )
