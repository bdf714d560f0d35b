"""What all jobs share: flags of one name, and one line and exit status 2 for unusable ones."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from pipeline.settings import EncoderSettings, TokenizeSettings
from tokenizer.config import EncoderConfig, MFCCConfig
from tokenizer.errors import TrainingFailed, UsageError
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not argparse's whole usage before it."""
        self.exit(2, f"error: {message}; see --help\n")


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose --help ends with an example that runs."""
    return _Parser(
        description=description,
        allow_abbrev=False,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def unusable(flag: str, value: object, problem: str, remedy: str) -> UsageError:
    """The error to raise for a flag that cannot be used."""
    return UsageError(problem, remedy, value=value, argument=flag)


@contextmanager
def naming(flag: str, value: object = None, remedy: str = "") -> Iterator[None]:
    """Within the body, an error about something given is about this flag.

    value, remedy: filled in where the error says nothing of its own.
    """
    try:
        yield
    except UsageError as error:
        error.argument = error.argument or flag
        error.value = value if error.value is None else error.value
        error.remedy = error.remedy or remedy
        raise


def named(flag: str, function: Callable, *values: object, **more: object) -> Any:
    """Call a function; an error about something given is about this flag."""
    with naming(flag):
        return function(*values, **more)


def positive(text: str) -> int:
    """A whole number over zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not over zero")
    return value


def count(text: str) -> int:
    """A whole number, zero or over."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is under zero")
    return value


def positive_number(text: str) -> float:
    """A number over zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not over zero")
    return value


def not_negative(text: str) -> float:
    """A number, zero or over."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is under zero")
    return value


def rate(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def add_input(flags: argparse.ArgumentParser, what: str) -> None:
    """--input, of one or more values."""
    flags.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="URL",
        help=f"{what}: files, folders, globs or brace ranges, local or s3://bucket/...",
    )


def add_tokenizer(flags: argparse.ArgumentParser) -> None:
    """--tokenizer."""
    flags.add_argument(
        "--tokenizer",
        required=True,
        metavar="URL",
        help="one that ships (wavlm-tiny-d1024, -km256, -km1024), or the folder or URL of one "
        "that jobs/train_tokenizer.py made",
    )


def read_tokenizer(value: str) -> TokenizerFiles:
    """The tokenizer that --tokenizer names. Raises UsageError when it is none."""
    folder = named("--tokenizer", fetch_folder, value, "a tokenizer")
    with naming("--tokenizer", value, "make one with jobs/train_tokenizer.py"):
        return TokenizerFiles.read(folder)


def add_encoders(flags: argparse.ArgumentParser) -> None:
    """The flags of EncoderSettings and TokenizeSettings: where and how encoders run."""
    own, cut = EncoderSettings(), TokenizeSettings()
    where = flags.add_argument_group("where it runs")
    where.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default=own.device,
        help="auto: GPUs if the cluster has any (default: %(default)s)",
    )
    add_encoder_actors(where)
    how = flags.add_argument_group("how it encodes")
    how.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default=cut.precision,
        help="of the encoder; bf16 is faster and changes some tokens (default: %(default)s)",
    )
    how.add_argument(
        "--window-seconds",
        type=positive_number,
        default=cut.window_seconds,
        help="longer audio goes through in overlapping windows (default: %(default)g)",
    )
    how.add_argument(
        "--context-seconds",
        type=positive_number,
        default=cut.context_seconds,
        help="overlap discarded at each inner edge of a window (default: %(default)g)",
    )
    how.add_argument(
        "--batch-size",
        type=positive,
        default=cut.batch_size,
        help="most windows in a batch (default: %(default)s)",
    )
    how.add_argument(
        "--batch-seconds",
        type=positive_number,
        default=cut.batch_seconds,
        help="most audio in a batch, padding included (default: %(default)g)",
    )


def add_encoder_actors(where: argparse._ArgumentGroup) -> None:
    """The flags that say how many encoders run beside each other, and how wide each is."""
    where.add_argument(
        "--encoders", type=positive, help="encoder actors (default: one a GPU, or all CPU cores)"
    )
    where.add_argument(
        "--cpus-per-encoder",
        type=positive,
        default=EncoderSettings().cpus_per_encoder,
        help="threads of an encoder on a CPU (default: %(default)s)",
    )


def encoder_settings(args: argparse.Namespace) -> EncoderSettings:
    """From the flags of add_encoders."""
    return EncoderSettings(
        device=args.device,
        encoders=args.encoders,
        cpus_per_encoder=args.cpus_per_encoder,
    )


def tokenize_settings(args: argparse.Namespace) -> TokenizeSettings:
    """From the flags of add_encoders."""
    return TokenizeSettings(
        window_seconds=args.window_seconds,
        context_seconds=args.context_seconds,
        batch_size=args.batch_size,
        batch_seconds=args.batch_seconds,
        precision=args.precision,
    )


def device_and_precision(args: argparse.Namespace) -> tuple[str, str]:
    """What "auto" comes to on this machine. Raises UsageError for a GPU that is not there."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise unusable(
            "--device",
            "cuda",
            problem="this process sees no GPU",
            remedy="submit with `ray job submit --entrypoint-num-gpus 1`, or use --device cpu",
        )
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = args.precision
    if precision == "auto":
        fast = (
            torch.cuda.is_bf16_supported()
            if device == "cuda"
            else torch.cpu._is_avx512_bf16_supported()
        )
        precision = "bf16" if fast else "fp32"
    return device, precision


def encoder(name: str, layer: int) -> tuple[EncoderConfig | MFCCConfig, dict[str, Tensor]]:
    """The encoder that a flag names, and its weights. Raises UsageError if it is none."""
    if name in ("mfcc", "mfcc-standardized"):
        return MFCCConfig(standardize=name != "mfcc"), {}
    folder = named("--encoder", fetch_folder, name, "a WavLM", hub=True)
    with naming("--encoder", name, "give a WavLM and a --layer it has"):
        return read_encoder(folder, layer)


def run(main) -> None:
    """Call a job's main and exit with its status: 2 and one line for unusable arguments."""
    try:
        sys.exit(main())
    except UsageError as error:
        # The library says which parameter or settings field it was; the flag has the same name.
        error.rename(lambda name: name if name[0] == "-" else f"--{name.replace('_', '-')}")
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
