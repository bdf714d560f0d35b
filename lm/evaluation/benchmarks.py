"""Pairs of recordings of which a language model should find the first the likelier, from a folder.

Told by what lies in a folder, below the one that is given, with no manifest of ours:

* SALMon (arXiv 2409.07437): `TASK/sample_N_0.wav` is what hangs together, `sample_N_1.wav` and up
  what does not; `TASK/metadata.json` may give samples a "group".
* sWUGGY and sBLIMP (ZeroSpeech 2021, arXiv 2011.11588): `gold.csv` beside the recordings names for
  each "filename" its "id", "voice" and whether it is "correct", with the "frequency" of a word or
  the "type" and "subtype" of a sentence.
* spoken StoryCloze (TWIST, arXiv 2305.13009), and sWUGGY and sBLIMP as SlamKit lays them out:
  files that begin with a number and "_" or "+". Those of 2 i and 2 i + 1 belong together, and the
  even one is right, unless their names say `correct` and `incorrect`.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lm.config import LMError

ENDINGS = (".wav", ".flac")
SALMON = re.compile(r"sample_(\d+)_(\d+)")
NUMBERED = re.compile(r"(\d+)[_+]")
# How often a word occurs in LibriSpeech, in ZeroSpeech's bands: the first that it is under.
BANDS = ((1, "oov"), (5, "1-4"), (20, "5-19"), (100, "20-99"), (float("inf"), "100-"))


@dataclass(frozen=True)
class Pair:
    """Two recordings to tell apart. task: the folder they are from, below the one that was given.

    subset: a part of the task with a figure of its own, or None. group: pairs of one group, the
    voices of a word say, are not independent, and count as one.
    """

    task: str
    id: str
    group: str
    positive: Path
    negative: Path
    subset: str | None = None


def read_pairs(folder: Path) -> list[Pair]:
    """All pairs in a folder, to any depth, ordered. Raises LMError when there is none, or a file
    that a pair needs is missing.
    """
    pairs = []
    for place in sorted({folder, *(path for path in folder.rglob("*") if path.is_dir())}):
        task = place.relative_to(folder).as_posix() if place != folder else folder.resolve().name
        found = {
            path.stem: path
            for path in sorted(place.iterdir())
            if path.suffix in ENDINGS and not path.name.startswith(".")
        }
        if (place / "gold.csv").is_file():
            pairs += _zerospeech(place / "gold.csv", task, found)
        elif salmon := {stem: SALMON.fullmatch(stem) for stem in found if SALMON.fullmatch(stem)}:
            numbers = {stem: (int(m[1]), int(m[2])) for stem, m in salmon.items()}
            pairs += _salmon(place, task, numbers=numbers, found=found)
        elif found and all(map(NUMBERED.match, found)):
            pairs += _numbered(task, found)
    if not pairs:
        raise LMError(
            "it holds no pairs in the layout of SALMon (sample_0_0.wav), ZeroSpeech (gold.csv) or "
            "StoryCloze (0_..._correct.wav)"
        )
    return pairs


def _salmon(
    place: Path, task: str, numbers: dict[str, tuple[int, int]], found: dict[str, Path]
) -> Iterator[Pair]:
    of_sample = defaultdict(dict)
    for stem, (sample, option) in numbers.items():
        of_sample[sample][option] = found[stem]
    groups = _salmon_groups(place / "metadata.json")
    for sample, options in sorted(of_sample.items()):
        if 0 not in options or len(options) < 2:
            raise LMError(f"sample {sample} of {task} lacks its sample_{sample}_{0 in options:d}")
        for option in sorted(options.keys() - {0}):
            group = str(groups.get(sample, sample))
            yield Pair(
                task,
                f"{sample}_{option}",
                group=group,
                positive=options[0],
                negative=options[option],
            )


def _salmon_groups(file: Path) -> dict[int, object]:
    """{sample: group} where the metadata has any; SALMon's own has none."""
    try:
        rows = json.loads(file.read_text()) if file.is_file() else []
        return {row["index"]: row["group"] for row in rows if "group" in row}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LMError(f"its {file.parent.name}/metadata.json is not SALMon's: {error}") from error


def _zerospeech(gold: Path, task: str, found: dict[str, Path]) -> Iterator[Pair]:
    with gold.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0].keys() if rows else set()
    if lacking := {"filename", "id", "voice", "correct"} - columns:
        raise LMError(f"its {task}/gold.csv has no column {min(lacking)!r}")
    items = defaultdict(lambda: ([], []))
    for row in rows:
        stem = row["filename"].removesuffix(".wav")
        if stem not in found:
            raise LMError(f"its {task}/gold.csv names {row['filename']}, which is not there")
        kind = row.get("type", ""), row.get("subtype", ""), row["id"]
        items[(*kind, row["voice"])][row["correct"] == "0"].append((stem, row))
    for (type_, subtype, id_, voice), (right, wrong) in items.items():
        if len(right) != len(wrong):
            raise LMError(f"item {id_} of {task}/gold.csv in voice {voice} is not in pairs")
        for (positive, row), (negative, _) in zip(right, wrong):
            band = _band(row["frequency"]) if "frequency" in row else None
            group = "/".join(part for part in (type_, subtype, id_) if part)
            name = f"{group}/{voice}"
            yield Pair(
                task,
                name,
                group=group,
                positive=found[positive],
                negative=found[negative],
                subset=band or type_ or None,
            )


def _band(frequency: str) -> str | None:
    try:
        return next(name for most, name in BANDS if float(frequency) < most)
    except (ValueError, StopIteration):  # an empty field
        return None


def _numbered(task: str, found: dict[str, Path]) -> Iterator[Pair]:
    order = sorted(found, key=lambda stem: (int(NUMBERED.match(stem)[1]), stem))
    if len(order) % 2:
        raise LMError(f"its {task} has {len(order)} recordings, which are not in pairs")
    for positive, negative in zip(order[::2], order[1::2]):
        first, second = (int(NUMBERED.match(stem)[1]) for stem in (positive, negative))
        marks = {stem.rpartition("_")[2] for stem in (positive, negative)}
        named = marks == {"correct", "incorrect"}
        if second != first + 1 and not (named and second == first):
            raise LMError(f"of its {task}, {positive} and {negative} do not belong together")
        if named and positive.endswith("_incorrect"):
            positive, negative = negative, positive
        group = str(first if first == second else first // 2)
        yield Pair(task, positive, group=group, positive=found[positive], negative=found[negative])
