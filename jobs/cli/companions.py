"""The flags of jobs/tokenize.py for what goes into its shards with the tokens, and what is said of
it in the end.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from jobs.cli.figures import kinds
from pipeline.settings import TokenizeSettings

NONE = "none"


def add_companions(parser: argparse.ArgumentParser) -> None:
    """--keep and --spans."""
    parser.add_argument(
        "--keep",
        type=endings,
        metavar="ENDINGS",
        help="what beside the audio goes with the tokens, such as txt,TextGrid, up to 1 MB a "
        "sample; none: nothing (default: everything but pickles)",
    )
    parser.add_argument(
        "--spans",
        action="append",
        default=[],
        metavar="FIELD",
        help="a list of {start, end, ...} in seconds in the metadata whose spans get their tokens, "
        "or TextGrid or ctm, beside the audio; may be given several times",
    )


def endings(text: str) -> tuple[str, ...]:
    """Endings between commas, with or without their dots; () for none."""
    names = tuple(name.strip().lstrip(".") for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError("an ending is empty")
    return () if names == (NONE,) else tuple(sorted(set(names)))


def with_companions(settings: TokenizeSettings, args: argparse.Namespace) -> TokenizeSettings:
    """The settings, with those that these flags give."""
    return replace(settings, keep=args.keep, spans=tuple(sorted(set(args.spans))))


def print_companions(summary: dict) -> None:
    """What was left out beside the audio, and how many spans have their tokens."""
    if summary["left_beside"]:
        print(f"left out beside the audio: {kinds(summary['left_beside'])}")
    for name, count in summary["spans"].items():
        errors = summary["span_errors"].get(name, 0)
        wrong = f", and {errors:,} could not be placed (span_error)" if errors else ""
        print(f"spans of {name}: {count:,} have their tokens{wrong}")
