"""Flags of jobs/report.py, the tokenizer it decodes with, and what it says at its end."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from jobs.cli.encoders import add_device
from jobs.cli.errors import named, unusable
from jobs.cli.models import read_tokenizer
from jobs.cli.parser import count, positive
from tokenizer.errors import UsageError

if TYPE_CHECKING:
    from lm.evaluation.figure_files import TaskShare
    from tokenizer.storage.folder import Folder
    from tokenizer.storage.token_folder import TokenFolder
    from tokenizer.storage.tokenizer_files import TokenizerFiles

NO_VOCODER = "There is no resynthesis: the tokenizer has no vocoder."
PUBLISHED = (
    "Published figures are of SALMon's own recordings: compare with them only what was measured on "
    "these."
)


def add_report(parser: argparse.ArgumentParser) -> None:
    """All flags of the job."""
    parser.add_argument(
        "--tokens",
        required=True,
        metavar="URL",
        help="an OUTPUT of jobs/tokenize.py or jobs/import_tokens.py",
    )
    parser.add_argument(
        "--output", required=True, metavar="URL", help="the HTML file, such as out/report.html"
    )
    parser.add_argument(
        "--audio",
        nargs="+",
        default=[],
        metavar="URL",
        help="what was --input when the tokens were made, if it is not where it was",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="URL",
        help="with a vocoder, for resynthesis (default: the one that run.json names)",
    )
    parser.add_argument("--lm", metavar="URL", help="the model/ that jobs/train_lm.py wrote")
    parser.add_argument(
        "--figures",
        nargs="+",
        default=[],
        metavar="URL",
        help="files that jobs/evaluate.py wrote with --json",
    )
    parser.add_argument("--continuations", metavar="URL", help="an OUTPUT of jobs/generate.py")
    what = parser.add_argument_group("what is shown")
    what.add_argument(
        "--samples",
        type=count,
        default=12,
        help="utterances, and continuations (default: %(default)s)",
    )
    what.add_argument(
        "--codes", type=positive, default=12, help="codes to listen to (default: %(default)s)"
    )
    what.add_argument("--seed", type=count, default=0, help="of what is drawn (default: 0)")
    add_device(what, "of vocoder and language model, in this process")


def open_page(url: str) -> tuple[Folder, str]:
    """The folder and the name of the page. Raises UsageError if no file can lie there."""
    from tokenizer.storage.folder import Folder

    parent, slash, name = url.rpartition("/")
    if not name:
        raise unusable("--output", url, "it is a folder", remedy="name a file: .../report.html")
    folder = named("--output", Folder, parent or slash or ".")
    try:
        is_folder = folder.fs.isdir(folder.path(name))
    except Exception as error:  # whatever a store raises, this file cannot be written
        raise folder.unusable(error) from error
    if is_folder:
        raise unusable("--output", url, "it is a folder", remedy="name a file: .../report.html")
    return folder, name


def find_tokenizer(
    given: str | None, tokens: TokenFolder
) -> tuple[TokenizerFiles | None, list[str]]:
    """The tokenizer that made the tokens, if it is there, and notes of what is missing.

    Raises UsageError for one that was given and cannot be used.
    """
    from tokenizer.storage.token_folder import check_same_tokenizer, read_record

    if given:
        files = read_tokenizer(given)
        tokens.check_tokenizer(files.fingerprint, given)
    elif tokens.tokenizer is None:
        return None, ["There is no sound: the tokens were imported, and name no tokenizer."]
    else:
        source = str((read_record(tokens.folder) or {}).get("tokenizer_source") or "")
        try:
            files = read_tokenizer(source)
            check_same_tokenizer(tokens.tokenizer, files.fingerprint, source)
        except UsageError as error:
            return None, [f"There is no resynthesis: tokenizer {source!r}: {error.problem}."]
    return files, ([] if files.vocoder else [NO_VOCODER])


def about_published(tasks: list[tuple[str, list[TaskShare]]]) -> str:
    """What a reader must know of published figures; "" where none is shown."""
    return PUBLISHED if any(task.published for _, found in tasks for task in found) else ""


def print_notes(notes: list[str], no_log: bool) -> None:
    """Say on stderr what the page lacks."""
    for note in notes:
        print(note, file=sys.stderr)
    if no_log:
        print("There are no curves: no training/log.jsonl beside --lm.", file=sys.stderr)
