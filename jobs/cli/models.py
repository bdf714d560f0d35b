"""Flags that name a model: --tokenizer, --encoder and --lm; and what reads the model they name.

Their readers import PyTorch, so they do it when they are called: --help must not wait for it.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.cli.errors import named, naming, unusable
from tokenizer.config import EncoderConfig, MFCCConfig

if TYPE_CHECKING:
    from torch import Tensor

    from lm.model import SpeechLM
    from tokenizer.storage.tokenizer_files import TokenizerFiles


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """--tokenizer."""
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="URL",
        help="one that ships (wavlm-tiny-d1024, -km256, -km1024), or the folder or URL of one "
        "that jobs/train_tokenizer.py made",
    )


def read_tokenizer(value: str) -> TokenizerFiles:
    """The tokenizer that --tokenizer names. Raises UsageError if it is none."""
    from tokenizer.storage.fetch import fetch_folder
    from tokenizer.storage.tokenizer_files import TokenizerFiles

    folder = named("--tokenizer", fetch_folder, value, "a tokenizer")
    with naming("--tokenizer", value, "make one with jobs/train_tokenizer.py"):
        return TokenizerFiles.read(folder)


def encoder(name: str, layer: int) -> tuple[EncoderConfig | MFCCConfig, dict[str, Tensor]]:
    """The encoder that --encoder names, and its weights. Raises UsageError if it is none."""
    if name in ("mfcc", "mfcc-standardized"):
        return MFCCConfig(standardize=name != "mfcc"), {}
    from tokenizer.storage.encoder_files import read_encoder
    from tokenizer.storage.fetch import fetch_folder

    folder = named("--encoder", fetch_folder, name, "a WavLM", hub=True)
    with naming("--encoder", name, "give a WavLM and a --layer it has"):
        return read_encoder(folder, layer)


def add_lm(parser: argparse.ArgumentParser) -> None:
    """--lm."""
    parser.add_argument(
        "--lm", required=True, metavar="URL", help="the model/ that jobs/train_lm.py wrote"
    )


def read_model(value: str, device: str, precision: str) -> tuple[SpeechLM, TokenizerFiles | None]:
    """The language model that --lm names, and its tokenizer. Raises UsageError if it is none."""
    from lm.files import read_lm
    from tokenizer.storage.fetch import fetch_folder

    folder = named("--lm", fetch_folder, value, "a language model")
    with naming("--lm", value, "give the model/ that jobs/train_lm.py wrote"):
        return read_lm(folder, device, precision)


def chosen_device(args: argparse.Namespace) -> str:
    """--device, "cpu" or "cuda". Raises UsageError for a GPU that is not there."""
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise unusable(
            "--device",
            "cuda",
            problem="this process sees no GPU",
            remedy="submit with `ray job submit --entrypoint-num-gpus 1`, or use --device cpu",
        )
    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return args.device


def device_and_precision(args: argparse.Namespace) -> tuple[str, str]:
    """--device and --precision, with what "auto" means on this machine.

    Raises UsageError for a GPU that is not there.
    """
    import torch

    device, precision = chosen_device(args), args.precision
    if precision == "auto":
        fast = (
            torch.cuda.is_bf16_supported()
            if device == "cuda"
            else torch.cpu._is_avx512_bf16_supported()
        )
        precision = "bf16" if fast else "fp32"
    return device, precision
