"""Train a small WavLM on audio shards: masked prediction of k-means labels, in rounds.

Round 1 predicts k-means labels of MFCCs, each later round labels of what the round before learned.
With --start, the first round continues from an existing encoder, on labels of its own features.
OUTPUT/encoder is a WavLM as `transformers` reads it, for jobs/train_tokenizer.py. Run the same
command again after a kill to continue. Exit status: 0 done; 1 a shard failed, or the loss is not
finite; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse

from jobs.cli import flags
from jobs.cli.training import encoder_flags


def parse() -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/train_encoder.py --input tests/speech --steps 20 20 --codes 50 100 "
        "--row-seconds 2 --output out/encoder",
    )
    flags.add_input(parser, "audio shards (.tar)")
    parser.add_argument("--output", required=True, metavar="URL", help="folder of the run")
    parser.add_argument(
        "--noise",
        nargs="+",
        metavar="URL",
        help="audio shards of noises to mix with the speech; they are held in memory",
    )
    parser.add_argument(
        "--seed", type=flags.count, default=0, help="of all draws (default: %(default)s)"
    )
    encoder_flags.add_start_shape_rounds(parser)
    encoder_flags.add_training(parser)
    encoder_flags.add_places(parser)
    return parser.parse_args()


def main() -> int:
    """Flags in, a training, a summary out."""
    args = parse()
    from jobs.cli.training.encoder import train  # after parsing: it imports Ray and PyTorch

    return train(args)


if __name__ == "__main__":
    flags.run(main)
