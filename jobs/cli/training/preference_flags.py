"""Flags of jobs/align_lm.py: its triples, how the model is trained, and where."""

import argparse

from jobs.cli import flags
from lm.training.settings import PreferenceSettings, TripleSettings

# The file of the triples that are made, in OUTPUT.
TRIPLES = "triples.jsonl.gz"
TRAINING = PreferenceSettings(steps=500, rows=8, learning_rate=2e-5)


def add_triples(parser: argparse.ArgumentParser) -> None:
    """Where triples come from, and how they are made."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--triples", nargs="+", metavar="URL", help="JSON lines, gzipped or not")
    source.add_argument(
        "--make-triples",
        metavar="URL",
        help=f"an OUTPUT of jobs/tokenize.py to make OUTPUT/{TRIPLES} from",
    )
    parser.add_argument(
        "--held-out",
        type=flags.rate,
        default=0.1,
        help="share of the triples to measure on (default: %(default)s)",
    )
    settings = TripleSettings()
    made = parser.add_argument_group("how triples are made")
    made.add_argument(
        "--prompt-tokens",
        type=flags.positive,
        default=settings.prompt_tokens,
        help="from the start of an utterance (default: %(default)s)",
    )
    made.add_argument(
        "--continuation-tokens",
        type=flags.positive,
        default=settings.continuation_tokens,
        help="at most, of what follows (default: %(default)s)",
    )
    made.add_argument(
        "--most-triples", type=flags.positive, default=settings.most, help="default: %(default)s"
    )
    made.add_argument(
        "--temperature", type=flags.not_negative, default=1.0, help="default: %(default)g"
    )
    made.add_argument("--top-k", type=flags.positive, help="default: all")
    made.add_argument("--top-p", type=flags.rate, help="default: all")


def add_training(how: argparse._ArgumentGroup) -> None:
    """The flags of PreferenceSettings."""
    how.add_argument(
        "--steps",
        type=flags.count,
        default=TRAINING.steps,
        help="batches; 0: make triples, and no model (default: %(default)s)",
    )
    how.add_argument(
        "--rows",
        type=flags.positive,
        default=TRAINING.rows,
        help="triples in a batch (default: %(default)s)",
    )
    how.add_argument(
        "--learning-rate",
        type=flags.positive_number,
        default=TRAINING.learning_rate,
        help="default: %(default)g",
    )
    how.add_argument(
        "--beta",
        type=flags.positive_number,
        default=TRAINING.beta,
        help="the lower it is, the further the model moves (default: %(default)g)",
    )
    how.add_argument(
        "--per-token",
        action="store_true",
        help="rewards are of a continuation's mean token, so that its length does not count; give "
        "a --beta some hundred times as high",
    )
    how.add_argument("--seed", type=flags.count, default=0, help="of all draws (default: 0)")


def add_places(where: argparse._ArgumentGroup) -> None:
    """Device, precision, checkpoints."""
    flags.add_device(where)
    where.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="default: %(default)s"
    )
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=5, help="default: %(default)g"
    )
    where.add_argument(
        "--log-every", type=flags.positive, default=10, metavar="STEPS", help="default: %(default)s"
    )
