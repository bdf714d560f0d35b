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

from jobs.cli import encoder_flags, flags
from pipeline.settings import CropSettings, EncoderSettings, Recipe
from pipeline.shards.inputs import find_shards
from pipeline.training.train_encoder import check_output, train_encoder
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.storage.folder import Folder
from tokenizer.training.loop import TrainingFailed, TrainingSettings


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
    encoder_flags.add_start_shape_rounds(parser)
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
    flags.add_encoder_actors(where)
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=2, help="default: %(default)g"
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    started, config = encoder_flags.start_and_shape(args)
    rounds = encoder_flags.label_rounds(args, config.num_hidden_layers)
    frames = round(args.row_seconds * FRAMES_PER_SECOND)
    if frames <= args.mask_span:
        raise flags.unusable(
            "--row-seconds",
            args.row_seconds,
            f"a row of {frames} frames is no longer than a masked span of {args.mask_span}",
            "make rows longer or --mask-span shorter",
        )
    device, precision = flags.device_and_precision(args)
    _, shards = flags.named("--input", find_shards, args.input)
    noises = flags.named("--noise", find_shards, args.noise)[1] if args.noise else []
    crops = CropSettings(
        rows=args.rows,
        frames=frames,
        mask_share=args.mask_share,
        mask_span=args.mask_span,
        speed=args.speed,
        rooms=args.rooms,
        mixing=args.mixing,
        noise=args.noise_share,
        channels=args.channels,
    )
    recipe = Recipe(
        spectrum_steps=args.spectrum_steps,
        rounds=tuple(rounds),
        crops=crops,
        learning_rate=args.learning_rate,
        precision=precision,
        seed=args.seed,
        whiten=args.whiten,
        start=args.start,
        keep_layers=args.keep_layers,
    )
    output = flags.named("--output", Folder, args.output)
    check_output(output, config, recipe=recipe, shards=shards)
    readers = args.readers if args.readers is not None else 4 * (device == "cuda")
    training = TrainingSettings(
        steps=0,
        learning_rate=args.learning_rate,
        precision=precision,
        device=device,
        checkpoint_minutes=args.checkpoint_minutes,
        workers=readers,
    )
    encoding = EncoderSettings(
        device=args.device,
        encoders=args.encoders,
        cpus_per_encoder=args.cpus_per_encoder,
    )
    try:
        failed = train_encoder(
            shards,
            noises,
            output=output,
            config=config,
            recipe=recipe,
            training=training,
            encoding=encoding,
            start=started,
        )
    except TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, why in failed.items():
        print(f"problem: shard {name} failed: {why}; run the same command again", file=sys.stderr)
    if failed:
        return 1
    print(f"written to {args.output}: encoder/, and log.jsonl of each round")
    return 0


if __name__ == "__main__":
    flags.run(main)
