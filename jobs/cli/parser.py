"""The parser of a job's command line, and the numbers that flags take."""

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line, without argparse's whole usage before it, and exit with 2."""
        self.exit(2, f"error: {message}; see --help\n")


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose --help ends with an example that runs.

    example: command lines, `python jobs/NAME.py ...` each.
    """
    return _Parser(prog=_program(), **_texts(description, example))


def add_commands(parser: argparse.ArgumentParser, name: str, metavar: str) -> Commands:
    """Commands within a job. name: of the attribute that says which was given."""
    return parser.add_subparsers(dest=name, required=True, metavar=metavar)


def add_command(
    commands: Commands, name: str, *, about: str, description: str, example: str
) -> argparse.ArgumentParser:
    """The parser of one command. about: its line in the job's --help. Else as `parser`."""
    return commands.add_parser(name, help=about, **_texts(description, example))


def command(job: str) -> str:
    """How a job is started from here: `python jobs/JOB.py`, or `wavmill JOB`."""
    if _program().startswith("wavmill "):
        return f"wavmill {job.replace('_', '-')}"
    return f"python jobs/{job}.py"


def _program() -> str:
    """tokenize.py, or `wavmill tokenize` if the job was started that way."""
    return Path(sys.argv[0]).name


def _texts(description: str, example: str) -> dict[str, Any]:
    lines = [line.strip() for line in example.splitlines()]
    if _program().startswith("wavmill "):
        lines = [re.sub(r"^python jobs/(\w+)\.py", _as_command, line) for line in lines]
    return {
        "description": description.strip(),
        "epilog": "example:\n" + "\n".join(f"  {line}" for line in lines),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }


def _as_command(job: re.Match) -> str:
    return f"wavmill {job[1].replace('_', '-')}"


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
    """A finite number over zero."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not over zero")
    return value


def not_negative(text: str) -> float:
    """A finite number, zero or over."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is under zero")
    return value


def rate(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def add_input(parser: argparse.ArgumentParser, what: str) -> None:
    """--input, one or more values. what: the kind of file, for --help."""
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="URL",
        help=f"{what}: files, folders, globs or brace ranges, local or s3://bucket/...",
    )


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """--output. what: what the folder is for."""
    parser.add_argument("--output", required=True, metavar="URL", help=f"folder for {what}")


def add_max_reject_rate(parser: argparse.ArgumentParser, what: str) -> None:
    """--max-reject-rate. what: samples or lines."""
    parser.add_argument(
        "--max-reject-rate",
        type=rate,
        default=0.1,
        help=f"exit with 1 if a larger share of {what} is rejected (default: %(default)s)",
    )
