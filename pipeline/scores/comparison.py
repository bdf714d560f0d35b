"""Files of figures side by side, and paired differences of what two of them have in common.

A file may have "scores", {name: {"value", "low", "high", "count", "unit", "model"}}, and what they
are made of: {key: {name: number, or null}} under "utterances", "speakers" or "groups". A score that
is a ratio of sums has two numbers a key, NAME_errors and NAME_words or NAME_sum and NAME_count.
Everything else that is a number is a figure without an interval. A difference is that of means or
ratios over the keys that both files have: of PNMI, whose parts are only nearly what it is made of,
it is nearly the figure's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from pipeline.scores.bootstrap import ScoreInterval, paired_ratio_difference
from tokenizer.errors import UsageError, one_line

# What scores are made of.
TABLES = ("utterances", "speakers", "groups")
# What is neither a figure nor a setting.
APART = (
    *(*TABLES, "scores", "pairs", "published", "left_out", "problems", "unscored"),
    *("reference", "reference_utterances", "reference_unscored"),
)
# Of values in the files, which may be rounded.
ROUNDING = 1e-3
REMEDY = "give files that jobs/evaluate.py wrote with their figures"

# {key: (numerator, denominator)}: of an utterance, a speaker or a group.
Parts = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class FigureFile:
    """A file of figures. name: where it lies. figures: what it holds."""

    name: str
    figures: dict[str, Any]

    @property
    def scores(self) -> dict[str, dict]:
        """Its figures with intervals, by name."""
        return self.figures.get("scores") or {}

    def value(self, name: str) -> float | None:
        """A figure; None if it has none of this name, or it is undefined."""
        value = self.scores[name]["value"] if name in self.scores else self.figures.get(name)
        return value if _is_number(value) else None

    def parts(self, name: str) -> tuple[str, Parts]:
        """(table, what a score is made of), in the score's unit: a ratio may be told in percent.

        ("", {}) if the file does not say so: the score is no mean and no ratio of what it has.
        """
        value = self.value(name)
        for table in TABLES:
            rows = (self.figures.get(table) or {}).items()
            found = {key: part for key, values in rows if (part := _part(values, name))}
            whole = sum(part[1] for part in found.values())
            if value is None or not whole > 0:
                continue
            mean = sum(part[0] for part in found.values()) / whole
            for factor in (1, 100):
                if math.isclose(factor * mean, value, rel_tol=ROUNDING, abs_tol=1e-9):
                    return table, {key: (factor * up, by) for key, (up, by) in found.items()}
        return "", {}


@dataclass(frozen=True)
class FigureRow:
    """A figure of each file.

    difference: of two files, the second less the first. It and its interval are of what both files
    have of `over`: utterances, speakers or groups. "": the files do not say what the figure is made
    of, and there is no interval. conflict: ("model" or "unit", what it is in each file), where that
    differs and the values are not comparable.
    """

    name: str
    values: list[float | None]
    difference: ScoreInterval | None = None
    over: str = ""
    conflict: tuple[str, list[str]] | None = None


@dataclass(frozen=True)
class Comparison:
    """differing: {field: its value in each file}, of fields that are no figures.

    common: utterances that all files have; alone: those that each has and not all others.
    """

    rows: list[FigureRow]
    differing: dict[str, list[str]]
    common: int
    alone: list[int]


def compare(files: Sequence[FigureFile]) -> Comparison:
    """Compare two files or more; with two, their differences too.

    Raises UsageError for a file of unknown form, and for files that have no figure in common.
    """
    for file in files:
        try:
            names = _names(file)
            for name in names:
                file.value(name), file.parts(name), file.scores.get(name, {}).get("model")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"its figures have an unknown form: {one_line(error)}"
            raise UsageError(problem, REMEDY, value=file.name) from error
    first = files[0]
    for other in files[1:]:
        if not set(_names(first)) & set(_names(other)):
            problem = f"it has no figure that {first.name} has"
            raise UsageError(problem, "compare runs of one command", value=other.name)
    every = dict.fromkeys(name for file in files for name in _names(file))
    keys = [set(file.figures.get("utterances") or {}) for file in files]
    common = set.intersection(*keys)
    return Comparison(
        [_row(files, name) for name in every],
        differing=_differing(files),
        common=len(common),
        alone=[len(own - common) for own in keys],
    )


def _names(file: FigureFile) -> list[str]:
    """Figures in the file's order, those with intervals among them."""
    plain = [name for name, value in file.figures.items() if _is_number(value)]
    return list(dict.fromkeys([*plain, *file.scores]))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _part(values: dict, name: str) -> tuple[float, float] | None:
    if _is_number(mean := values.get(name)):
        return float(mean), 1.0
    for part, whole in (("errors", "words"), ("sum", "count")):
        up, by = values.get(f"{name}_{part}"), values.get(f"{name}_{whole}")
        if _is_number(up) and _is_number(by):
            return float(up), float(by)
    return None


def _differing(files: Sequence[FigureFile]) -> dict[str, list[str]]:
    fields = dict.fromkeys(field for file in files for field in file.figures)
    found = {}
    for field in fields:
        values = [file.figures.get(field) for file in files]
        if field in APART or any(map(_is_number, values)):
            continue
        if any(value != values[0] for value in values):
            found[field] = [_words(value) for value in values]
    return found


def _words(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_words, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    return "(none)" if value is None else str(value)


def _row(files: Sequence[FigureFile], name: str) -> FigureRow:
    values = [file.value(name) for file in files]
    for field in ("model", "unit"):
        kinds = [file.scores[name].get(field) for file in files if name in file.scores]
        if len(set(map(_words, kinds))) > 1:
            kinds = [file.scores.get(name, {}).get(field) for file in files]
            return FigureRow(name, values, conflict=(field, [_words(kind) for kind in kinds]))
    if len(files) > 2:
        return FigureRow(name, values)
    (table, first), (other_table, second) = (file.parts(name) for file in files)
    if table and table == other_table:
        difference = paired_ratio_difference(first, second)
        return FigureRow(name, values, difference=difference, over=table)
    before, after = values
    if before is None or after is None:
        return FigureRow(name, values)
    return FigureRow(name, values, difference=ScoreInterval(after - before, None, None, count=0))
