"""Files of figures, as jobs/evaluate.py writes them, read for a report.

A file may also say what others have published: {"published": {SYSTEM: {TASK: share}}}.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm.evaluation.published_systems import published_shares
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import filesystem, public_url
from tokenizer.storage.retries import patiently

REMEDY = "give a file that jobs/evaluate.py wrote with its figures"
# What has a place of its own in a report, or is no figure.
NOT_FIGURES = (
    *("pairs", "published", "left_out", "problems", "unscored", "settings", "speakers", "groups"),
    *("reference_utterances", "reference_unscored"),
)


@dataclass(frozen=True)
class TaskShare:
    """The share of a task's pairs that a model gets right, its 95 % interval, others' shares."""

    name: str
    share: float
    low: float
    high: float
    published: dict[str, float]


@dataclass
class FigureFiles:
    """files: (name, figures) each. published: {task: {system: share}} that files give."""

    files: list[tuple[str, dict[str, Any]]]
    published: dict[str, dict[str, float]] = field(default_factory=dict)

    def tasks(self) -> list[tuple[str, list[TaskShare]]]:
        """(folder of pairs, its tasks and their subsets) of all files that have pairs.

        Raises UsageError where they have another form than jobs/evaluate.py writes.
        """
        found = []
        for name, figures in self.files:
            pairs = figures.get("pairs")
            if not pairs:
                continue
            try:
                found += [(folder, list(self._tasks(tasks))) for folder, tasks in pairs.items()]
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UsageError(
                    f"its pairs have an unknown form: {one_line(error)}",
                    REMEDY,
                    value=name,
                    argument="figures",
                ) from error
        return found

    def _tasks(self, tasks: dict[str, dict]) -> Iterator[TaskShare]:
        for task, figures in tasks.items():
            published = published_shares(task) | self.published.get(task, {})
            yield _task(task, figures, published)
            for subset, part in figures.get("subsets", {}).items():
                yield _task(f"{task}: {subset}", part, {})

    def rows(self) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """(file, rows of (figure, value, 95 % interval)) of all files that have other figures."""
        found = [(name, list(_rows(figures))) for name, figures in self.files]
        return [(name, rows) for name, rows in found if rows]


def read_figures(urls: Sequence[str], argument: str = "figures") -> FigureFiles:
    """Read files of figures. Raises UsageError for one that is no JSON object, or is not there.

    argument: the name they were given under, for the message.
    """
    read = FigureFiles([])
    for url in urls:
        try:
            fs, path = filesystem(url)
            figures = json.loads(patiently(fs.cat_file, path))
            if not isinstance(figures, dict):
                raise ValueError("it is no JSON object")
            for system, shares in figures.get("published", {}).items():
                for task, share in shares.items():
                    read.published.setdefault(task, {})[str(system)] = float(share)
        except UsageError as error:
            error.argument = error.argument or argument
            raise
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"it cannot be read as figures: {one_line(error)}",
                REMEDY,
                value=url,
                argument=argument,
            ) from error
        read.files.append((public_url(url), figures))
    return read


def _task(name: str, figures: dict, published: dict[str, float]) -> TaskShare:
    low, high = map(float, figures["interval_per_token"])
    share = float(figures["accuracy_per_token"])
    return TaskShare(name, share, low=low, high=high, published=published)


def _rows(figures: dict, before: str = "") -> Iterator[tuple[str, str, str]]:
    scores = figures.get("scores")
    for key, value in figures.items():
        name = f"{before}{key}"
        if isinstance(scores, dict) and key in scores:  # there with its interval
            continue
        # Under "utterances" each one's own scores may be, in place of how many there are.
        per_utterance = key == "utterances" and isinstance(value, dict)
        if not before and (key in NOT_FIGURES or per_utterance):
            continue
        if isinstance(value, dict) and "value" in value:
            interval = value.get("interval") or [value.get("low"), value.get("high")]
            known = isinstance(interval, list) and len(interval) == 2 and None not in interval
            bounds = interval if known else []
            yield name, _shown(value["value"]), " to ".join(map(_shown, bounds))
        elif isinstance(value, dict):
            yield from _rows(value, f"{name}: ")
        elif isinstance(value, list):
            yield name, ", ".join(map(_shown, value[:8])) + (" ..." if len(value) > 8 else ""), ""
        else:
            yield name, _shown(value), ""


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "undefined" if value is None else str(value)
