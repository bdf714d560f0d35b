"""What --start names in jobs/train_lm.py: the language model that a training goes on from."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.cli import flags
from jobs.cli.training.preference import model_digest
from lm.config import LMConfig
from lm.continuation import check_tokenizer
from lm.files import read_lm
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles

# Flags of what the model has already. Their defaults are filled in where there is no --start.
SHAPE = {
    "preset": "tiny",
    "width": None,
    "layers": None,
    "heads": None,
    "feed_forward": None,
    "chunk": 4,
    "window": 512,
    "inputs": None,
    "no_start_chunk": False,
    "initialize": None,
    "encoder": None,
}
# Values of --start when it was the name of --initialize.
EARLIER = ("wavlm", "scratch")


@dataclass(frozen=True, kw_only=True)
class Start:
    """A language model to go on from.

    folder: local. config: its shape. files: its tokenizer, or None. digest: SHA-256 of its weights.
    """

    folder: Path
    config: LMConfig
    files: TokenizerFiles | None
    digest: str


def read_start(args: argparse.Namespace) -> Start | None:
    """The model that --start names, or None; `args` gets the defaults of the shape's flags.

    A tokenizer that --tokenizer names replaces the model's own, where it gives the same tokens: it
    may have got a vocoder since. Raises UsageError for another one, for a folder that is no
    language model's, and for a flag that would change the model's shape.
    """
    if args.start in EARLIER:
        args.initialize, args.start = args.initialize or args.start, None
    given = [name for name, value in SHAPE.items() if getattr(args, name) not in (None, False)]
    for name in SHAPE:
        if name not in given:
            setattr(args, name, SHAPE[name])
    if not args.start:
        return None
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        problem = f"its shape and weights are its own, and {names} would change them"
        raise flags.unusable("--start", args.start, problem=problem, remedy=f"leave out {names}")
    folder = flags.named("--start", fetch_folder, args.start, "a language model")
    with flags.naming("--start", args.start, "give the model/ that jobs/train_lm.py wrote"):
        model, files = read_lm(folder)
    if args.tokenizer:
        trained_on, files = files, flags.read_tokenizer(args.tokenizer)
        with flags.naming("--tokenizer", args.tokenizer):
            check_tokenizer(files, trained_on)
    config = replace(model.config, dropout=args.dropout)
    return Start(folder=folder, config=config, files=files, digest=model_digest(model))
