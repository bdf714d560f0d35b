"""`--compare` of jobs/evaluate.py: files of figures side by side."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from jobs.cli.errors import naming, unusable
from jobs.cli.figures import open_json, show
from jobs.cli.parser import Commands

if TYPE_CHECKING:
    from pipeline.scores.comparison import Comparison, FigureRow

FLAG = "--compare"


def add_compare(parser: argparse.ArgumentParser) -> None:
    """--compare, in place of a command."""
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="JSON",
        help="files that --json wrote, in place of WHAT: their figures side by side, and of two "
        "files the second less the first, with a 95 %% interval over the utterances of both",
    )
    parser.add_argument(
        "--json", dest="compared", metavar="URL", help=f"write what {FLAG} prints to this file too"
    )


def parse(parser: argparse.ArgumentParser, commands: Commands) -> argparse.Namespace:
    """The command line of a command, or of --compare."""
    commands.required = False
    args = parser.parse_args()
    if args.compare and args.what:
        parser.error(f"{FLAG} goes without a command, and {args.what} was given")
    if args.compared and not args.compare:
        parser.error("--json goes behind the command that it is of")
    if args.compare:
        args.run = compare_files
    elif not args.what:
        parser.error(f"give a command ({', '.join(commands.choices)}) or {FLAG}")
    return args


def compare_files(args: argparse.Namespace) -> int:
    """Read the files, compare them, print."""
    if len(args.compare) < 2:
        problem, remedy = "there is nothing to compare it with", "give two files or more"
        raise unusable(FLAG, args.compare[0], problem=problem, remedy=remedy)
    from lm.evaluation.figure_files import read_figures
    from pipeline.scores.comparison import FigureFile, compare
    from tokenizer.storage.folder import public_url

    write_json = open_json(args.compared) if args.compared else None
    with naming(FLAG):
        read = read_figures(args.compare, argument=FLAG)
        files = [FigureFile(name, figures) for name, figures in read.files]
        compared = compare(files)
    letters = [chr(ord("A") + number) for number in range(len(files))]
    for letter, file in zip(letters, files):
        print(f"{letter}: {file.name}")
    _print_what_differs(compared, letters)
    _print_rows(compared.rows, letters)
    if write_json:
        names = [public_url(file.name) for file in files]
        write_json({"files": names, **asdict(compared)})
        print(f"written to {args.compared}")
    return 0


def _print_what_differs(compared: Comparison, letters: list[str]) -> None:
    for field, values in compared.differing.items():
        if field == "tokenizer":  # a fingerprint, as it is shown everywhere
            values = [value[:12] for value in values]
        print(f"{field} differs: {_each(letters, values)}")
    if compared.common or any(compared.alone):
        alone = "".join(
            f", {count:,} more in {letter}" for letter, count in zip(letters, compared.alone)
        )
        print(f"utterances of all files: {compared.common:,}{alone}")


def _print_rows(rows: list[FigureRow], letters: list[str]) -> None:
    width = max(28, *(len(row.name) + 2 for row in rows))
    columns = "".join(f"{letter:>12}" for letter in letters)
    paired = f"{'B - A':>12}{'95 %':>22}  over" if len(letters) == 2 else ""
    print(f"{'':<{width}}{columns}{paired}")
    for row in rows:
        cells = "".join(f"{'-' if value is None else show(value):>12}" for value in row.values)
        print(f"{row.name:<{width}}{cells}{_difference(row)}".rstrip())
    for row in rows:
        if row.conflict:
            field, kinds = row.conflict
            print(f"{row.name} is not comparable, its {field} differs: {_each(letters, kinds)}")


def _each(letters: list[str], values: list[str]) -> str:
    return "; ".join(f"{letter}: {value}" for letter, value in zip(letters, values))


def _difference(row: FigureRow) -> str:
    found = row.difference
    if found is None or found.value is None:
        return ""
    text = f"{found.value:>+12.4f}"
    if found.low is None or found.high is None:
        return text
    interval = f"{found.low:+.4f} to {found.high:+.4f}"
    return f"{text}{interval:>22}  {found.count:,} {row.over}"
