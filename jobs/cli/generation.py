"""Flags of jobs/generate.py, and the prompts they name."""

from __future__ import annotations

import argparse
from itertools import islice
from typing import TYPE_CHECKING

from jobs.cli.encoders import add_device
from jobs.cli.errors import named, naming, unusable
from jobs.cli.models import add_lm
from jobs.cli.parser import add_output, count, not_negative, positive, positive_number, rate

if TYPE_CHECKING:
    from lm.config import LMConfig
    from lm.prompts import Prompt
    from tokenizer.storage.tokenizer_files import TokenizerFiles

NO_VOCODER = (
    "the tokenizer has no vocoder, so there are tokens but no sound: train one with "
    "`jobs/train_vocoder.py --tokenizer {tokenizer}`, and run this again with its --output as "
    "--tokenizer"
)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """All flags of the job."""
    add_lm(parser)
    add_prompts(parser)
    add_output(parser, "the continuations")
    parser.add_argument(
        "--prompt-seconds",
        type=positive_number,
        help="keep only the end of each prompt, this long (default: all of it)",
    )
    parser.add_argument(
        "--limit", type=positive, help="use only the first prompts, this many (default: all)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=10.0,
        help="length of a continuation (default: %(default)g)",
    )
    parser.add_argument(
        "--samples",
        type=positive,
        default=1,
        help="continuations of each prompt (default: %(default)s)",
    )
    add_sampling(parser.add_argument_group("how tokens are drawn"))
    where = parser.add_argument_group("where and how it runs")
    where.add_argument(
        "--tokenizer",
        metavar="URL",
        help="the model's tokenizer with a vocoder (default: the one in --lm)",
    )
    add_device(where)
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the model; auto: bf16 if the machine has fast bf16 (default: %(default)s)",
    )
    where.add_argument(
        "--batch-size",
        type=positive,
        default=8,
        help="continuations side by side (default: %(default)s)",
    )


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """--prompt and --prompt-tokens."""
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument(
        "--prompt", nargs="+", metavar="URL", help="audio files, folders of them or globs"
    )
    prompt.add_argument(
        "--prompt-tokens", nargs="+", metavar="URL", help="token shards (.tar) or arrays (.npy)"
    )


def add_sampling(how: argparse._ArgumentGroup) -> None:
    """--temperature, --top-k, --top-p and --seed."""
    # The defaults are Sampling's; a test compares them. Its module imports PyTorch.
    how.add_argument(
        "--temperature",
        type=not_negative,
        default=0.8,
        help="0 takes the likeliest token (default: %(default)g)",
    )
    how.add_argument(
        "--top-k", type=positive, help="draw from this many likeliest tokens (default: all)"
    )
    how.add_argument(
        "--top-p",
        type=rate,
        default=0.3,
        help="draw from the likeliest tokens that together have this probability; 1: all "
        "(default: %(default)g)",
    )
    how.add_argument(
        "--seed", type=count, default=0, help="of all random choices (default: %(default)s)"
    )


def find_prompts(args: argparse.Namespace, files: TokenizerFiles | None) -> dict[str, str]:
    """{path: url} of what --prompt or --prompt-tokens name.

    files: the model's tokenizer. Raises UsageError for what is not there, and for audio without a
    tokenizer.
    """
    from lm.prompts import TOKENS_ENDING
    from pipeline.shards.inputs import SHARD_ENDINGS, find_files
    from pipeline.shards.members import AUDIO_ENDINGS

    flag, values = "--prompt-tokens", args.prompt_tokens
    endings: tuple[str, ...] = (*SHARD_ENDINGS, TOKENS_ENDING)
    if not args.prompt_tokens and files is None:
        raise unusable(
            "--lm",
            args.lm,
            problem="it has no tokenizer for audio: it was trained on imported tokens",
            remedy="give tokens, with --prompt-tokens",
        )
    if not args.prompt_tokens:
        flag, values = "--prompt", args.prompt
        endings = tuple(f".{ending}" for ending in AUDIO_ENDINGS)
    _, found = named(flag, find_files, values, endings)
    return {path: file.url for path, file in found.items()}


def read_prompts(
    args: argparse.Namespace, files: TokenizerFiles | None, config: LMConfig, device: str
) -> list[Prompt]:
    """What --prompt or --prompt-tokens name. Raises UsageError for what cannot be continued.

    files: the model's tokenizer. config: the model's.
    """
    from tqdm import tqdm

    from lm.prompts import audio_prompts, token_prompts
    from tokenizer.tokenizer import Tokenizer

    urls = find_prompts(args, files)
    if args.prompt_tokens:
        with naming("--prompt-tokens"):
            return list(token_prompts(urls, config, args.limit))
    assert files is not None
    urls = dict(islice(urls.items(), args.limit))
    # On a terminal alone: an error is then the only line of a log.
    line = tqdm(total=len(urls), desc="prompts", unit=" files", leave=False, disable=None)
    with naming("--prompt"), line:
        return list(audio_prompts(urls, Tokenizer(files, device), line.update))
