"""Train a small WavLM on audio shards: masked prediction of k-means labels, in rounds.

Round 1 predicts k-means labels of MFCCs, each later round those of what the round before learned.
With --start the first round goes on from an encoder that is there, on labels of its own features.
OUTPUT/encoder is a WavLM as `transformers` reads it, to be given to jobs/train_tokenizer.py. Run
it again after a kill to go on. Exit status: 0 done; 1 a shard failed, or the loss is no number any
more; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from transformers import WavLMConfig

from jobs import flags
from pipeline.crops import CropSettings
from pipeline.encoders import EncoderSettings
from pipeline.errors import UsageError
from pipeline.inputs import find_shards
from pipeline.storage import Folder, fetch_folder
from pipeline.train_encoder_job import Recipe, Round, check_output, train_encoder
from pipeline.training_loop import TrainingFailed, TrainingSettings
from tokenizer.audio import FRAMES_PER_SECOND

# In round 1, and in later ones, which need less to begin with.
HEARD_WEIGHTS = 0.5, 0.3


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/train_encoder.py --input tests/speech --steps 20 20 --codes 50 100 "
        "--row-seconds 2 --output out/encoder",
    )
    flags.add_input(parser, "audio shards (.tar)")
    parser.add_argument("--output", required=True, metavar="URL", help="folder of the run")
    parser.add_argument(
        "--noise",
        nargs="+",
        metavar="URL",
        help="audio shards of noises to lay over the speech; they are held in memory",
    )
    parser.add_argument(
        "--seed", type=flags.count, default=0, help="of all draws (default: %(default)s)"
    )
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
    shape.add_argument("--width", type=flags.positive, default=256, help="default: %(default)s")
    shape.add_argument("--layers", type=flags.positive, default=8, help="default: %(default)s")
    shape.add_argument("--heads", type=flags.positive, default=4, help="default: %(default)s")
    shape.add_argument(
        "--conv-widths",
        type=flags.positive,
        nargs=7,
        default=[64, 128, 128, 128, 256, 256, 256],
        help="of the seven convolutions (default: %(default)s)",
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
    sound = parser.add_argument_group("what is done to the sound, and not to the labels")
    sound.add_argument(
        "--speed",
        type=flags.rate,
        default=0.15,
        help="played up to so much faster or slower (default: %(default)g)",
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
    where = parser.add_argument_group("where it runs")
    where.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="bf16 is twice as fast where the machine has it, and is then taken by auto",
    )
    where.add_argument(
        "--readers",
        type=flags.count,
        help="processes beside this one that decode and mix (default: 4 with a GPU; 0 on a CPU, "
        "where they would be in the way of the training)",
    )
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=2, help="default: %(default)g"
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    started = fetch_folder("--start", args.start, "a WavLM", hub=True) if args.start else None
    config = shape_of(started, args.start) if started else encoder_shape(args)
    rounds = label_rounds(args, config.num_hidden_layers)
    for flag, value, most in (
        ("--whiten", args.whiten, config.hidden_size),
        ("--keep-layers", args.keep_layers, config.num_hidden_layers - 1 if started else 0),
    ):
        if value > most:
            why = f"more than {most} make no sense here" if most else "there is no --start"
            raise UsageError(flag, value, why, "lower it" if most else "give one, or leave it out")
    frames = round(args.row_seconds * FRAMES_PER_SECOND)
    if frames <= args.mask_span:
        raise UsageError(
            "--row-seconds",
            args.row_seconds,
            f"a row of {frames} frames is no longer than a masked span of {args.mask_span}",
            "make rows longer or --mask-span shorter",
        )
    device, precision = flags.device_and_precision(args)
    _, shards = find_shards("--input", args.input)
    noises = find_shards("--noise", args.noise)[1] if args.noise else []
    crops = CropSettings(
        args.rows,
        frames,
        args.mask_share,
        args.mask_span,
        args.speed,
        args.rooms,
        args.mixing,
        args.noise_share,
        args.channels,
    )
    recipe = Recipe(
        args.spectrum_steps,
        tuple(rounds),
        crops,
        args.learning_rate,
        precision,
        args.seed,
        args.whiten,
        args.start,
        args.keep_layers,
    )
    output = Folder("--output", args.output)
    check_output(output, config, recipe, shards)
    readers = args.readers if args.readers is not None else 4 * (device == "cuda")
    training = TrainingSettings(
        0,
        args.learning_rate,
        precision,
        device,
        args.checkpoint_minutes,
        readers,
    )
    # Two threads of so small an encoder would wait for each other; two encoders do not.
    encoding = EncoderSettings(args.device, precision, cpus_per_encoder=1)
    try:
        failed = train_encoder(shards, noises, output, config, recipe, training, encoding, started)
    except TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, why in failed.items():
        print(f"problem: shard {name} failed: {why}; run the same command again", file=sys.stderr)
    if failed:
        return 1
    print(f"written to {args.output}: encoder/, and log.jsonl of each round")
    return 0


def encoder_shape(args: flags.argparse.Namespace) -> WavLMConfig:
    """wavlm-large's structure in the flags' widths. Raises UsageError for an impossible one."""
    if args.width % args.heads or args.width % 16:
        raise UsageError(
            "--width",
            args.width,
            f"it does not divide by --heads {args.heads} and by the position embedding's 16 groups",
            "give a multiple of both",
        )
    return WavLMConfig(
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=4 * args.width,
        conv_dim=args.conv_widths,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )


def shape_of(folder: Path, name: str) -> WavLMConfig:
    """The shape of the encoder to go on from. Raises UsageError if such a one is not trained."""
    config = WavLMConfig.from_pretrained(folder)
    if config.feat_extract_norm != "layer" or not config.do_stable_layer_norm:
        raise UsageError(
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
            raise UsageError(
                flag,
                " ".join(map(str, values)),
                f"--steps asks for {count} rounds",
                f"give {needed} values",
            )
    if args.label_layers and max(args.label_layers) > layers:
        raise UsageError(
            "--label-layers",
            " ".join(map(str, args.label_layers)),
            f"the encoder has {layers} layers",
            "give lower ones",
        )
    labelled = args.label_layers if args.start else [None, *args.label_layers]
    return [Round(*own) for own in zip(args.steps, args.codes, labelled, heard)]


if __name__ == "__main__":
    flags.run(main)
