"""Train a vocoder for a tokenizer on audio shards, so that its tokens can be heard.

It learns to make speech of what the tokenizer's tokens decode to. Writes OUTPUT, the tokenizer
with its vocoder: the same tokens, the same fingerprint, and Tokenizer.decode and jobs/detokenize.py
to turn them into sound. Goes on after a kill when the same command is run again, and logs to
OUTPUT/training. Exit status: 0 done; 1 the loss is no number any more; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from pipeline.settings import VocoderSettings
from pipeline.shards.inputs import find_shards
from pipeline.training.train_vocoder import train_vocoder
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.config import VocoderConfig
from tokenizer.storage.folder import Folder
from tokenizer.training.loop import TrainingFailed, TrainingSettings

# In frames: the longest windows of the losses are a quarter of it.
SHORTEST_ROW = FRAMES_PER_SECOND // 2


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/train_vocoder.py --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--hidden 128 --layers 4 --steps 200 --output out/speaking",
    )
    flags.add_input(parser, "audio shards (.tar)")
    flags.add_tokenizer(parser)
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the tokenizer")
    shape = parser.add_argument_group("its shape")
    shape.add_argument(
        "--hidden", type=flags.positive, default=512, help="width of it (default: %(default)s)"
    )
    shape.add_argument(
        "--layers", type=flags.positive, default=8, help="ConvNeXt blocks (default: %(default)s)"
    )
    shape.add_argument(
        "--causal",
        action="store_true",
        help="look at no later frame, so that it can speak as tokens come in",
    )
    how = parser.add_argument_group("how it learns")
    how.add_argument(
        "--steps", type=flags.positive, default=20_000, help="batches (default: %(default)s)"
    )
    how.add_argument(
        "--rows", type=flags.positive, default=16, help="rows in a batch (default: %(default)s)"
    )
    how.add_argument(
        "--row-seconds", type=flags.positive_number, default=2, help="default: %(default)g"
    )
    how.add_argument(
        "--learning-rate", type=flags.positive_number, default=1e-3, help="default: %(default)g"
    )
    how.add_argument(
        "--adversarial-weight",
        type=flags.not_negative,
        default=0.0,
        help="of discriminators in the loss, 0.1 say: speech sounds less muffled, and a step takes "
        "many times as long (default: 0, none)",
    )
    how.add_argument("--seed", type=flags.count, default=0, help="of all draws (default: 0)")
    where = parser.add_argument_group("where it runs")
    where.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    where.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16 is faster where the machine has it (default: %(default)s)",
    )
    where.add_argument(
        "--workers", type=flags.positive, default=1, help="processes, one a GPU (default: 1)"
    )
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=2, help="default: %(default)g"
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    frames = round(args.row_seconds * FRAMES_PER_SECOND)
    if frames < SHORTEST_ROW:
        raise flags.unusable(
            "--row-seconds", args.row_seconds, "a row holds too little", "give 0.5 or more"
        )
    _, shards = flags.named("--input", find_shards, args.input)
    files = flags.read_tokenizer(args.tokenizer)
    device, precision = flags.device_and_precision(args)
    settings = VocoderSettings(
        vocoder=VocoderConfig(
            width=files.width,
            hidden=args.hidden,
            layers=args.layers,
            feed_forward=3 * args.hidden,
            causal=args.causal,
        ),
        adversarial_weight=args.adversarial_weight,
        steps=args.steps,
        rows=args.rows,
        frames=frames,
        learning_rate=args.learning_rate,
        precision=precision,
        seed=args.seed,
        workers=args.workers,
    )
    readers = 4 * (device == "cuda")
    training = TrainingSettings(
        steps=args.steps,
        learning_rate=args.learning_rate,
        precision=precision,
        device=device,
        checkpoint_minutes=args.checkpoint_minutes,
        workers=readers,
    )
    output = flags.named("--output", Folder, args.output)
    output.check_free("config.json")
    try:
        last = train_vocoder(shards, output, files=files, settings=settings, training=training)
    except TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in last.items()))
    print(f"written to {args.output}: tokenizer {files.fingerprint[:12]} with a vocoder")
    return 0


if __name__ == "__main__":
    flags.run(main)
