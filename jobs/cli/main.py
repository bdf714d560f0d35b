"""`wavmill JOB ...` is `python jobs/JOB.py ...`: the console script of an installed wavmill."""

import ast
import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jobs.cli.errors import run

JOBS = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the job that the command line names, or list the jobs."""
    run(_main)


def _main() -> int:
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    jobs = _jobs()
    if command in ("-h", "--help"):
        print(_help(jobs))
        return 0
    if command == "--version":
        print(f"wavmill {_version()}")
        return 0
    name = command.replace("-", "_")
    if name not in jobs:
        print(f"error: {command} is no job of wavmill; see wavmill --help", file=sys.stderr)
        return 2
    # argparse takes the name of the program from here.
    sys.argv = [f"wavmill {command.replace('_', '-')}", *sys.argv[2:]]
    return importlib.import_module(f"jobs.{name}").main()


def _jobs() -> dict[str, str]:
    """{name of each job: first line of its docstring}, without importing one."""
    found = {}
    for path in sorted(JOBS.glob("[a-z]*.py")):
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = about.partition("\n")[0]
    return found


def _help(jobs: dict[str, str]) -> str:
    width = max(map(len, jobs)) + 2
    lines = [f"  {name.replace('_', '-'):<{width}}{about}" for name, about in jobs.items()]
    return "\n".join(
        [
            "usage: wavmill JOB [flags]",
            "",
            "Raw speech to discrete tokens, and a speech language model on them.",
            "",
            "jobs:",
            *lines,
            "",
            "  -h, --help     show this list; `wavmill JOB --help` shows a job's flags",
            "  --version      show the version",
        ]
    )


def _version() -> str:
    try:
        return version("wavmill")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
