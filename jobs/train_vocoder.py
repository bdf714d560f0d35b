"""Train a vocoder for a tokenizer on audio shards, so that its tokens can be decoded to speech.

It is trained on the features that the tokenizer decodes from its own tokens. Writes OUTPUT: the
tokenizer with its vocoder. Tokens and fingerprint stay the same, and Tokenizer.decode and
jobs/detokenize.py give speech. Run the same command again after a kill to continue; the log is in
OUTPUT/training. Exit status: 0 done; 1 the loss is not finite; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse

from jobs.cli import flags


def parse() -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/train_vocoder.py --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--hidden 128 --layers 4 --steps 200 --output out/speaking",
    )
    flags.add_input(parser, "audio shards (.tar)")
    flags.add_tokenizer(parser)
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the tokenizer")
    shape = parser.add_argument_group("the vocoder's shape")
    shape.add_argument(
        "--hidden", type=flags.positive, default=512, help="its width (default: %(default)s)"
    )
    shape.add_argument(
        "--layers", type=flags.positive, default=8, help="ConvNeXt blocks (default: %(default)s)"
    )
    shape.add_argument(
        "--head",
        choices=("istft", "linear"),
        default="istft",
        help="istft: an inverse STFT, as in Vocos; linear: the samples of each frame, as in "
        "WaveNeXt, without overlap and so without its latency (default: %(default)s)",
    )
    shape.add_argument(
        "--output-rate",
        type=flags.positive,
        metavar="HZ",
        help="sample rate of decoded speech: 16000 with istft; with linear a multiple of 50 from "
        "8000 to 48000 (default: 24000). Audio of a lower rate has nothing above half of that "
        "rate, and speech decoded after training on it has as little there",
    )
    shape.add_argument(
        "--causal",
        action="store_true",
        help="do not look at later frames, so that it can decode a stream of tokens",
    )
    how = parser.add_argument_group("how it is trained")
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
        help="of discriminators in the loss, such as 0.1: speech sounds less muffled, and a step "
        "takes many times as long (default: 0, none)",
    )
    how.add_argument("--seed", type=flags.count, default=0, help="of all draws (default: 0)")
    where = parser.add_argument_group("where it runs")
    flags.add_device(where)
    where.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16 is faster on a device that has it (default: %(default)s)",
    )
    where.add_argument(
        "--workers",
        type=flags.positive,
        default=1,
        help="processes that train, one per GPU (default: 1)",
    )
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=2, help="default: %(default)g"
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, a training, a summary out."""
    args = parse()
    from jobs.cli.training.vocoder import train  # after parsing: it imports Ray and PyTorch

    return train(args)


if __name__ == "__main__":
    flags.run(main)
