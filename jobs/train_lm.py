"""Train a speech language model on token shards. Writes OUTPUT/model.

For shards that jobs/tokenize.py made, give the same --tokenizer; for imported ones, none; to
fine-tune a model, give it as --start. After a
kill, run the same command again: it continues and ends with the same weights. The log is in
OUTPUT/training: log.jsonl, and events for TensorBoard. Exit status: 0 done; 1 the loss is not
finite, or a shard cannot be read; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse

from jobs.cli import flags
from jobs.cli.training import lm_flags


def parse() -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/train_lm.py --input out/tokens --tokenizer wavlm-tiny-km256 --preset tiny "
        "--steps 200 --output out/lm\n"
        "python jobs/train_lm.py --input out/tokens --start out/lm/model --learning-rate 1e-4 "
        "--steps 100 --output out/tuned",
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="URL",
        help="an OUTPUT of jobs/tokenize.py or jobs/import_tokens.py",
    )
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the model")
    parser.add_argument(
        "--tokenizer",
        metavar="URL",
        help="the one that made the tokens: a name that ships, a folder or a URL; leave it out for "
        "imported tokens, and with --start",
    )
    parser.add_argument(
        "--valid",
        metavar="URL",
        help="another such OUTPUT to validate on (default: a share of --input's utterances)",
    )
    parser.add_argument(
        "--held-out",
        type=flags.rate,
        default=0.01,
        help="that share, without --valid (default: %(default)s)",
    )
    lm_flags.add_shape(parser.add_argument_group("the model's shape"))
    lm_flags.add_training(parser.add_argument_group("how it is trained"))
    lm_flags.add_places(parser.add_argument_group("where it runs"))
    return parser.parse_args()


def main() -> int:
    """Flags in, a training, a summary out."""
    args = parse()
    from jobs.cli.training.lm import train_lm  # after parsing: it imports Ray and PyTorch

    return train_lm(args)


if __name__ == "__main__":
    flags.run(main)
