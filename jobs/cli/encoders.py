"""Flags of the jobs that encode audio with Ray: where encoders run, how audio is cut, and what goes
with the tokens.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.cli.errors import naming
from jobs.cli.parser import positive, positive_number
from pipeline.settings import EncoderSettings, TokenizeSettings

if TYPE_CHECKING:
    from tokenizer.storage.tokenizer_files import TokenizerFiles


def add_encoders(parser: argparse.ArgumentParser) -> None:
    """The flags of EncoderSettings and TokenizeSettings."""
    cut = TokenizeSettings()
    where = parser.add_argument_group("where it runs")
    add_device(where, "auto: GPUs if the cluster has any")
    add_encoder_actors(where)
    how = parser.add_argument_group("how it encodes")
    how.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the encoder; bf16 is faster and changes some tokens; auto: what an OUTPUT was "
        "begun with, else bf16 on GPUs that have it and fp32 elsewhere (default: %(default)s)",
    )
    how.add_argument(
        "--window-seconds",
        type=positive_number,
        default=cut.window_seconds,
        help="longer audio is encoded in overlapping windows (default: %(default)g)",
    )
    how.add_argument(
        "--context-seconds",
        type=positive_number,
        default=cut.context_seconds,
        help="overlap, discarded at each inner edge of a window (default: %(default)g)",
    )
    how.add_argument(
        "--batch-size",
        type=positive,
        default=cut.batch_size,
        help="maximum windows in a batch (default: %(default)s)",
    )
    how.add_argument(
        "--batch-seconds",
        type=seconds_or_auto,
        default=cut.batch_seconds,
        help="maximum audio in a batch, padding included; auto: as much as suits the GPU, and any "
        "number of windows (default: %(default)g)",
    )
    how.add_argument(
        "--max-duration",
        type=positive_number,
        metavar="SECONDS",
        help="reject longer audio, as `too_long` (default: any length is encoded)",
    )


def seconds_or_auto(text: str) -> float | None:
    """A positive number; None for auto."""
    return None if text == "auto" else positive_number(text)


def add_device(
    where: argparse._ActionsContainer, auto: str = "auto: a GPU if there is one"
) -> None:
    """--device. auto: what that value means."""
    where.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help=f"{auto} (default: %(default)s)",
    )


def add_encoder_actors(where: argparse._ActionsContainer) -> None:
    """The flags for how many encoders run side by side, and how many threads each has."""
    where.add_argument(
        "--encoders", type=positive, help="encoder actors (default: one a GPU, or all CPU cores)"
    )
    where.add_argument(
        "--cpus-per-encoder",
        type=positive,
        default=EncoderSettings().cpus_per_encoder,
        help="threads of an encoder on a CPU (default: %(default)s)",
    )
    where.add_argument(
        "--wait-seconds",
        type=positive_number,
        default=EncoderSettings().wait_seconds,
        help="how long to wait for a node where no encoder is left and none can be started "
        "(default: %(default)g)",
    )


def encoder_settings(args: argparse.Namespace) -> EncoderSettings:
    """From the flags of add_encoders."""
    return EncoderSettings(
        device=args.device,
        encoders=args.encoders,
        cpus_per_encoder=args.cpus_per_encoder,
        wait_seconds=args.wait_seconds,
    )


def settled_precision(args: argparse.Namespace, output: str | None = None) -> str:
    """--precision, and what auto stands for. output: an OUTPUT of jobs/tokenize.py, begun or not.

    Raises UsageError for a cluster that does not answer, and an OUTPUT that cannot be read.
    """
    if args.precision != "auto":
        return args.precision
    from pipeline.cluster.precision import fast_precision
    from tokenizer.storage.folder import Folder
    from tokenizer.storage.token_folder import read_record

    record = None
    if output:
        with naming("--output", output):
            record = read_record(Folder(output))
    settings = (record or {}).get("settings")
    begun = settings.get("precision") if isinstance(settings, dict) else None
    return begun or fast_precision(args.device)


def tokenize_settings(args: argparse.Namespace) -> TokenizeSettings:
    """From the flags of add_encoders."""
    return TokenizeSettings(
        window_seconds=args.window_seconds,
        context_seconds=args.context_seconds,
        batch_size=args.batch_size,
        batch_seconds=args.batch_seconds,
        precision=args.precision,
        max_duration=args.max_duration,
    )


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
    return () if names == ("none",) else tuple(sorted(set(names)))


def with_companions(settings: TokenizeSettings, args: argparse.Namespace) -> TokenizeSettings:
    """The settings, with those that these flags give."""
    return replace(settings, keep=args.keep, spans=tuple(sorted(set(args.spans))))


def warn_of_bf16(files: TokenizerFiles, precision: str) -> None:
    """Say that bf16 changes tokens, if an imported tokenizer runs in it.

    A language model that comes with such a tokenizer was trained on tokens in fp32.
    """
    if precision == "bf16" and files.made_by.get("method") == "imported":
        print(
            "this tokenizer is imported: in bf16 some of its tokens differ from those in fp32; "
            "`jobs/evaluate.py tokens --compare-precision` measures how many",
            file=sys.stderr,
            flush=True,
        )
