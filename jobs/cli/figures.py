"""What jobs print when they are done: summaries, tables of figures, and what is left to mend."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jobs.cli.errors import named, unusable
from tokenizer.errors import one_line


def open_json(url: str) -> Callable[[dict], None]:
    """A function that writes an object to this file, its URLs without passwords.

    Raises UsageError if no file can lie there.
    """
    from tokenizer.storage.folder import filesystem

    fs, path = named("--json", filesystem, url)
    try:
        fs.makedirs(fs._parent(path), exist_ok=True)
        is_folder = fs.isdir(path)
    except Exception as error:  # whatever a store raises, this file cannot be written
        raise unusable("--json", url, one_line(error), remedy="check the path") from error
    if is_folder:
        raise unusable("--json", url, "it is a folder", remedy="name a file")

    def write(value: dict) -> None:
        fs.pipe_file(path, (json.dumps(_without_secrets(value), indent=2) + "\n").encode())

    return write


def _without_secrets(value: dict) -> dict:
    """A record of figures, its URLs without passwords and signatures."""
    from tokenizer.storage.folder import public_url

    urls = {
        name: public_url(url) if isinstance(url, str) else [public_url(each) for each in url]
        for name in ("lm", "input")
        if (url := value.get(name))
    }
    pairs = {public_url(url): figures for url, figures in value.get("pairs", {}).items()}
    return {**value, **urls, **({"pairs": pairs} if "pairs" in value else {})}


def print_figures(
    figures: Mapping[str, float | int | str | None], meanings: dict[str, str]
) -> None:
    """A line for each figure: its name, its value, what it means."""
    for name, value in figures.items():
        print(f"{name:<28}{show(value):>12}  {meanings.get(name, '')}".rstrip())


def with_intervals(
    meanings: Mapping[str, str], scores: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Meanings that begin with the 95 % interval of the figure, where it has one."""
    found = dict(meanings)
    for name, score in scores.items():
        if score["low"] is not None:
            interval = f"{show(score['low'])} to {show(score['high'])}"
            found[name] = ": ".join(part for part in (interval, meanings.get(name)) if part)
    return found


def show(value: float | int | str | None) -> str:
    """A figure as tables show it."""
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else value


def kinds(endings: Mapping[str, int]) -> str:
    """How many files have each ending, in words."""
    return ", ".join(f"{count:,} {ending}" for ending, count in sorted(endings.items()))


def print_samples(summary: dict, unit: str) -> None:
    """How many samples there were, and why some were rejected. unit: samples or lines."""
    print(
        f"{summary['samples']:,} {unit} in {summary['shards']:,} shards: {summary['ok']:,} ok, "
        f"{summary['rejected']:,} rejected"
    )
    if summary["silent"]:
        print(f"  {summary['silent']:,} of the ok ones are digital silence")
    for reason, count in summary["rejected_by_reason"].items():
        print(f"  {count:,} {reason}")


def print_companions(summary: dict) -> None:
    """What was left out beside the audio, and how many spans have their tokens."""
    if summary["left_beside"]:
        print(f"left out beside the audio: {kinds(summary['left_beside'])}")
    for name, count in summary["spans"].items():
        errors = summary["span_errors"].get(name, 0)
        wrong = f", and {errors:,} could not be placed (span_error)" if errors else ""
        print(f"spans of {name}: {count:,} have their tokens{wrong}")


def print_codes(summary: dict, hours: str) -> None:
    """How many tokens there are, and how much of the codebook they use. hours: their unit."""
    codebook = summary["codebook"]
    print(
        f"{summary['audio_hours']:.3f} {hours}, {summary['tokens']:,} tokens, "
        f"{codebook['active_codes']:,} of {codebook['size']:,} codes used, "
        f"perplexity {codebook['perplexity']:.1f}"
    )


def reject_problems(summary: dict, most: float) -> list[str]:
    """A line if a larger share than `most` was rejected."""
    share = summary["rejected"] / max(summary["samples"], 1)
    return [f"{share:.1%} rejected, over --max-reject-rate {most:.1%}"] if share > most else []


def failed_problems(failed: dict[str, str], unit: str = "") -> list[str]:
    """A line a failed shard. failed: {name: why}. unit: what the names are of."""
    what = f"{unit} " if unit else ""
    return [
        f"{what}{name} failed: {why}; run the same command again" for name, why in failed.items()
    ]


def print_problems(problems: Iterable[str]) -> int:
    """Print each problem on stderr; returns the job's exit status, 1 if there are any."""
    problems = list(problems)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0
