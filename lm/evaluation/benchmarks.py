"""Benchmarks of pairs: a language model should give the first recording the higher likelihood.

The layout of a folder and its subfolders says which benchmark it is; no manifest is needed:

* SALMon (arXiv 2409.07437): `TASK/sample_N_0.wav` is the consistent recording, `sample_N_1.wav`
  and up are inconsistent ones. `TASK/metadata.json` may give samples a "group".
* sWUGGY and sBLIMP (ZeroSpeech 2021, arXiv 2011.11588): `gold.csv` beside the recordings gives the
  "id" and "voice" of each "filename" and whether it is "correct", with the "frequency" of a word
  or the "type" and "subtype" of a sentence.
* spoken StoryCloze (TWIST, arXiv 2305.13009), and sWUGGY and sBLIMP in SlamKit's layout: file names
  start with a number and "_" or "+". Numbers 2 i and 2 i + 1 form a pair, and the even one is
  correct, unless the names end in `correct` and `incorrect`.
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
# ZeroSpeech's bands of a word's frequency in LibriSpeech: the first bound that is above it.
BANDS = ((1, "oov"), (5, "1-4"), (20, "5-19"), (100, "20-99"), (float("inf"), "100-"))


@dataclass(frozen=True)
class Pair:
    """A positive and a negative recording. task: their folder, relative to the benchmark's.

    subset: a part of the task that gets its own figures, or None. group: pairs of one group, such
    as one word in several voices, are not independent and count as one trial.
    """

    task: str
    id: str
    group: str
    positive: Path
    negative: Path
    subset: str | None = None


def read_pairs(folder: Path) -> list[Pair]:
    """All pairs of a folder and its subfolders, in order.

    Raises LMError when there is none, or a file that a pair needs is missing.
    """
    pairs: list[Pair] = []
    for subfolder in sorted({folder, *(path for path in folder.rglob("*") if path.is_dir())}):
        task = subfolder.relative_to(folder).as_posix()
        if subfolder == folder:
            task = folder.resolve().name
        found = {
            path.stem: path
            for path in sorted(subfolder.iterdir())
            if path.suffix in ENDINGS and not path.name.startswith(".")
        }
        if (subfolder / "gold.csv").is_file():
            pairs += _zerospeech(subfolder / "gold.csv", task, found)
        elif any(map(SALMON.fullmatch, found)):
            pairs += _salmon(subfolder, task, found)
        elif found and all(map(NUMBERED.match, found)):
            pairs += _numbered(task, found)
    if not pairs:
        raise LMError(
            "it has no pairs in the layout of SALMon (sample_0_0.wav), ZeroSpeech (gold.csv) or "
            "StoryCloze (0_..._correct.wav)"
        )
    return pairs


def _salmon(folder: Path, task: str, found: dict[str, Path]) -> Iterator[Pair]:
    options_of: dict[int, dict[int, Path]] = defaultdict(dict)
    for stem, path in found.items():
        if match := SALMON.fullmatch(stem):
            options_of[int(match[1])][int(match[2])] = path
    groups = _salmon_groups(folder / "metadata.json")
    for sample, options in sorted(options_of.items()):
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
    """{sample: group} of samples that have a group. SALMon's own metadata has none."""
    try:
        rows = json.loads(file.read_text()) if file.is_file() else []
        return {row["index"]: row["group"] for row in rows if "group" in row}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LMError(
            f"its {file.parent.name}/metadata.json does not have SALMon's form: {error}"
        ) from error


def _zerospeech(gold: Path, task: str, found: dict[str, Path]) -> Iterator[Pair]:
    with gold.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0].keys() if rows else set()
    if missing := {"filename", "id", "voice", "correct"} - columns:
        raise LMError(f"its {task}/gold.csv has no column {min(missing)!r}")
    # {type, subtype, id, voice: (correct, incorrect)}
    items: dict[tuple[str, str, str, str], tuple[list, list]] = defaultdict(lambda: ([], []))
    for row in rows:
        stem = row["filename"].removesuffix(".wav")
        if stem not in found:
            raise LMError(f"its {task}/gold.csv names {row['filename']}, which is not there")
        item = row.get("type", ""), row.get("subtype", ""), row["id"], row["voice"]
        items[item][row["correct"] == "0"].append((stem, row))
    for (type_, subtype, id_, voice), (correct, incorrect) in items.items():
        if len(correct) != len(incorrect):
            raise LMError(f"item {id_} of {task}/gold.csv in voice {voice} is not in pairs")
        for (positive, row), (negative, _) in zip(correct, incorrect):
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
    numbers = {stem: int(match[1]) for stem in found if (match := NUMBERED.match(stem))}
    order = sorted(found, key=lambda stem: (numbers[stem], stem))
    if len(order) % 2:
        raise LMError(f"its {task} has {len(order)} recordings, an odd number")
    for positive, negative in zip(order[::2], order[1::2]):
        first, second = numbers[positive], numbers[negative]
        endings = {stem.rpartition("_")[2] for stem in (positive, negative)}
        named = endings == {"correct", "incorrect"}
        if second != first + 1 and not (named and second == first):
            raise LMError(f"in its {task}, {positive} and {negative} do not belong together")
        if named and positive.endswith("_incorrect"):
            positive, negative = negative, positive
        group = str(first if first == second else first // 2)
        yield Pair(task, positive, group=group, positive=found[positive], negative=found[negative])
