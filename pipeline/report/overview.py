"""What the reports of an OUTPUT say, in one pass: totals, durations, when shards were finished.

Reports come a few at a time, so memory does not grow with the number of utterances.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.shards.report import SCHEMA
from pipeline.shards.totals import Totals, read_parts
from tokenizer.storage.folder import Folder
from tokenizer.storage.retries import patiently

REPORTS_AT_ONCE = 16
# Durations from 10 ms to over a day, eight bins for each doubling.
BINS_PER_DOUBLING = 8
SHORTEST, DOUBLINGS = 0.01, 24


class DrawnUtterance(NamedTuple):
    """An utterance that was drawn to be shown."""

    shard: str
    key: str
    duration_s: float
    num_tokens: int


class Finished(NamedTuple):
    """A shard: when its report was written, in seconds since 1970, and its seconds of audio."""

    time: float
    seconds: float


@dataclass
class Durations:
    """How long utterances are: counts in bins of a logarithmic scale, the least and the greatest.

    counts: (DOUBLINGS * BINS_PER_DOUBLING,); what lies outside is counted in the outermost bins.
    """

    counts: np.ndarray = field(
        default_factory=lambda: np.zeros(DOUBLINGS * BINS_PER_DOUBLING, np.int64)
    )
    least: float = np.inf
    greatest: float = 0.0

    def add(self, seconds: np.ndarray) -> None:
        """seconds: (n,) of so many utterances."""
        if not len(seconds):
            return
        places = np.log2(np.maximum(seconds, 1e-9) / SHORTEST) * BINS_PER_DOUBLING
        inside = places.astype(np.int64).clip(0, len(self.counts) - 1)
        self.counts += np.bincount(inside, minlength=len(self.counts))
        self.least = min(self.least, float(seconds.min()))
        self.greatest = max(self.greatest, float(seconds.max()))

    def quantile(self, share: float) -> float:
        """Seconds that this share of utterances stays under, within 5 %."""
        total = self.counts.cumsum()
        place = int(np.searchsorted(total, share * total[-1]))
        middle = SHORTEST * 2 ** ((place + 0.5) / BINS_PER_DOUBLING)
        return float(np.clip(middle, self.least, self.greatest))

    def bars(self, most: int = 40) -> tuple[np.ndarray, np.ndarray]:
        """(edges (n + 1,) in seconds, counts (n,)) of at most so many bins, empty ends cut off."""
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            return np.zeros(1), np.zeros(0, np.int64)
        first, last = int(filled[0]), int(filled[-1]) + 1
        each = max(1, -(-(last - first) // most))
        starts = np.arange(first, last, each)
        edges = SHORTEST * 2 ** (np.append(starts, starts[-1] + each) / BINS_PER_DOUBLING)
        padded = np.append(self.counts, np.zeros(each, np.int64))
        counts = np.array([padded[start : start + each].sum() for start in starts])
        return edges, counts


@dataclass
class Overview:
    """All reports of an OUTPUT.

    totals: as summary.json has them. code_counts: (K,) how often each code was used. finished: of
    each shard, by time, where the store tells times. drawn: utterances drawn evenly from all that
    have tokens, in the order of the shards.
    """

    totals: dict
    code_counts: np.ndarray
    durations: Durations
    finished: list[Finished]
    drawn: list[DrawnUtterance]


def read_overview(
    output: Folder, *, draw: int, seed: int, show: Callable[[int], object] | None = None
) -> Overview:
    """One pass over the reports. draw: utterances to draw, by the seed.

    show: called with the number of reports just read.
    Raises UsageError for a damaged report.
    """
    totals, durations, random = Totals(), Durations(), np.random.default_rng(seed)
    times, finished = _times(output), []
    drawn: list[tuple[float, DrawnUtterance]] = []
    for part, rows in read_parts(output, {}, SCHEMA, reports=REPORTS_AT_ONCE):
        totals.add(part)
        tokenized = rows.filter(pc.greater(rows["num_tokens"], 0))
        seconds = tokenized["duration_s"].to_numpy().astype(np.float64)
        durations.add(seconds)
        of_shard = tokenized.group_by("shard").aggregate([("duration_s", "sum")])
        columns = (of_shard[name].to_pylist() for name in ("shard", "duration_s_sum"))
        finished += [Finished(times[name], audio) for name, audio in zip(*columns) if name in times]
        # The least of random numbers: each utterance is as likely as any other.
        priority = random.random(len(seconds))
        for row in np.argsort(priority)[:draw].tolist():
            drawn.append((float(priority[row]), _utterance(tokenized, row)))
        drawn = sorted(drawn)[:draw]
        if show:
            show(part.shards)
    return Overview(
        totals=totals.summary(),
        code_counts=totals.code_counts,
        durations=durations,
        finished=sorted(finished),
        drawn=sorted(utterance for _, utterance in drawn),
    )


def _utterance(table: pa.Table, row: int) -> DrawnUtterance:
    return DrawnUtterance(*(table[column][row].as_py() for column in DrawnUtterance._fields))


def _times(output: Folder) -> dict[str, float]:
    """{shard: when its report was written}; {} of a store that does not tell."""
    base = output.path("reports")
    prefix = output.fs._strip_protocol(base).rstrip("/") + "/"
    found = {}
    for path, info in patiently(output.fs.find, base, detail=True).items():
        marks = (info.get(name) for name in ("mtime", "LastModified", "last_modified", "updated"))
        time = next((mark for mark in marks if mark), None)
        if isinstance(time, datetime.datetime):
            time = time.timestamp()
        if isinstance(time, int | float) and path.endswith(".parquet"):
            found[path.removeprefix(prefix).removesuffix(".parquet")] = float(time)
    return found
