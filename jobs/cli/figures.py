"""How the commands of jobs/evaluate.py show figures, and write the same ones to --json."""

import json
from collections.abc import Callable

from jobs.cli import flags
from tokenizer.storage.folder import filesystem


def open_json(url: str) -> Callable[[dict], None]:
    """What writes an object to this file. Raises UsageError when it is no place for a file."""
    fs, path = flags.named("--json", filesystem, url)
    try:
        fs.makedirs(fs._parent(path), exist_ok=True)
        taken = fs.isdir(path)
    except Exception as error:  # whatever a store raises, this file cannot be written
        problem = " ".join(str(error).split()) or type(error).__name__
        raise flags.unusable("--json", url, problem[:300], "check the path") from error
    if taken:
        raise flags.unusable("--json", url, "it is a folder", "name a file")
    return lambda value: fs.pipe_file(path, (json.dumps(value, indent=2) + "\n").encode())


def print_figures(figures: dict[str, float | int | str | None], meanings: dict[str, str]) -> None:
    """A line a figure: its name, its value, what it means."""
    for name, value in figures.items():
        print(f"{name:<28}{show(value):>12}  {meanings.get(name, '')}".rstrip())


def show(value: float | int | str | None) -> str:
    """A figure as the table has it."""
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else value
