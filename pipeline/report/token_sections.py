"""What a report says of an OUTPUT in figures: totals, rejects, durations, codes, throughput."""

import math
from collections.abc import Sequence

import numpy as np

from pipeline.report.charts import Series, bar_chart, line_chart, number, table
from pipeline.report.overview import Finished, Overview
from pipeline.report.page import ReportPage, columns, hours, paragraph, tiles
from pipeline.shards.report import REASONS
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_folder import read_record

# Points of a line.
MOST_POINTS = 160
LEAST_RUN_SECONDS = 0.5
TASK_TIME = {
    "decode": "reading tars, decoding audio, cutting windows",
    "encode": "waiting for encoders",
    "storage": "waiting for input, and committing",
}


def add_totals(page: ReportPage, overview: Overview, summary: dict) -> None:
    """Totals, and rejects by reason. summary: summary.json, {} where there is none yet."""
    totals = overview.totals
    page.add(
        "Totals",
        tiles(
            [
                ("utterances", f"{totals['samples']:,}"),
                ("tokenized", f"{totals['ok']:,}"),
                (
                    "rejected",
                    f"{totals['rejected']:,}{_percent(totals['rejected'], totals['samples'])}",
                ),
                ("audio", hours(totals["audio_hours"])),
                ("tokens", f"{totals['tokens']:,}"),
                ("shards", f"{totals['shards']:,}"),
            ]
        ),
        _shard_notes(totals, summary),
        _rejects(totals["rejected_by_reason"]),
    )


def _shard_notes(totals: dict, summary: dict) -> str:
    notes = []
    if not summary:
        notes.append("The run has not ended: it has no summary.json yet.")
    elif summary.get("shards") != totals["shards"]:
        notes.append("Shards were added since summary.json was written.")
    if failed := summary.get("failed"):
        first = ", ".join(list(failed)[:5])
        notes.append(f"Shards that failed: {len(failed):,} ({first}). Run the same command again.")
    if broken := totals["incomplete_shards"]:
        notes.append(f"Broken tars: {len(broken):,} ({', '.join(broken[:5])}).")
    if totals["silent"]:
        notes.append(f"{totals['silent']:,} of the tokenized are digital silence.")
    return "".join(paragraph(note, "note") for note in notes)


def _rejects(reasons: dict[str, int]) -> str:
    if not reasons:
        return paragraph("Nothing was rejected.")
    ordered = sorted(reasons.items(), key=lambda pair: -pair[1])
    rows = [(reason, f"{count:,}", REASONS.get(reason, "")) for reason, count in ordered]
    return "<h3>Rejected, by reason</h3>" + table(("reason", "count", "meaning"), rows)


def add_durations(page: ReportPage, overview: Overview) -> None:
    """How long utterances are."""
    durations = overview.durations
    edges, counts = durations.bars()
    if not len(counts):
        page.add("Durations", paragraph("No utterance was tokenized.", "note"))
        return
    shares = [(f"{share:.0%}", durations.quantile(share)) for share in (0.05, 0.5, 0.95)]
    page.add(
        "Durations",
        tiles(
            [
                ("shortest", _seconds(durations.least)),
                *((f"{name} are under", _seconds(value)) for name, value in shares),
                ("longest", _seconds(durations.greatest)),
            ]
        ),
        columns(
            bar_chart(
                "Utterances by duration",
                edges.tolist(),
                counts.tolist(),
                x="seconds",
                y="utterances",
                about="Bins of equal ratio.",
                log_x=True,
            )
        ),
    )


def add_codes(page: ReportPage, overview: Overview, tokens_per_second: float) -> None:
    """Codes by frequency, perplexity, dead codes, bits per second."""
    counts = overview.code_counts
    total, size = int(counts.sum()), len(counts)
    if not total:
        page.add("Codes", paragraph("There are no tokens.", "note"))
        return
    ranked = -np.sort(-counts[counts > 0])
    shares = ranked / total
    entropy = float(-(shares * np.log2(shares)).sum())
    places = np.unique(np.geomspace(1, len(ranked), MOST_POINTS).round().astype(int))
    covered = np.cumsum(shares)
    half = int(np.searchsorted(covered, 0.5)) + 1
    notes = ""
    if total < 10 * size:
        notes = paragraph(
            f"There are {total / size:.1f} tokens for each code: with so few, a code that does not "
            "occur may still be alive.",
            "note",
        )
    page.add(
        "Codes",
        tiles(
            [
                ("codes", f"{size:,}"),
                ("in use", f"{len(ranked):,}"),
                ("dead", f"{size - len(ranked):,}{_percent(size - len(ranked), size)}"),
                ("perplexity", number(2**entropy)),
                ("bit/s, nominal", number(tokens_per_second * math.log2(max(size, 1)))),
                ("bit/s, by entropy", number(tokens_per_second * entropy)),
            ]
        ),
        notes,
        columns(
            line_chart(
                "Codes by frequency",
                [Series("codes", places.tolist(), (100 * shares[places - 1]).tolist())],
                x="rank of the code",
                y="% of tokens",
                about=f"Were all {size:,} used alike, each had {number(100 / size)} %.",
                log_x=True,
                log_y=True,
            ),
            line_chart(
                "Tokens that the commonest codes make up",
                [Series("codes", places.tolist(), (100 * covered[places - 1]).tolist())],
                x="commonest codes",
                y="% of tokens",
                about=f"Half of all tokens are of {half:,} codes.",
                from_zero=True,
            ),
        ),
    )


def add_throughput(page: ReportPage, finished: Sequence[Finished], this_run: dict | None) -> None:
    """How fast the last run was, what limited it, and when shards were finished."""
    parts = []
    if this_run and "times_real_time" in this_run:  # an import has no such rate
        shown = [
            ("last run", _seconds(this_run["seconds"])),
            ("its audio", hours(this_run["audio_hours"])),
            ("times real time", number(this_run["times_real_time"])),
            ("encoders", f"{this_run['encoders']} on {this_run['device']}"),
        ]
        parts.append(tiles(shown))
        parts.append(_limits(this_run))
    start, end = (finished[0].time, finished[-1].time) if finished else (0.0, 0.0)
    # Copied together, they have one time.
    if len(finished) > 2 and end - start > LEAST_RUN_SECONDS:
        unit, scale = ("hours", 3600) if end - start > 7200 else ("seconds", 1)
        done = np.cumsum([shard.seconds for shard in finished]) / 3600
        times = [(shard.time - start) / scale for shard in finished]
        places = np.unique(np.linspace(0, len(times) - 1, MOST_POINTS).round().astype(int))
        line = Series("audio", [times[p] for p in places], [float(done[p]) for p in places])
        parts.append(
            columns(
                line_chart(
                    "Audio finished over time",
                    [line],
                    x=f"{unit} since the first shard",
                    y="hours of audio",
                    about="By the time of each shard's report; flat parts are pauses.",
                    from_zero=True,
                )
            )
        )
    if parts:
        page.add("Throughput", *parts)


def _limits(this_run: dict) -> str:
    shares = this_run.get("task_time")
    if not isinstance(shares, dict):
        return ""
    rows = [
        (name, f"{share:.0%}", TASK_TIME.get(name, ""))
        for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
    ]
    text = f"It was limited by {this_run.get('limited_by', rows[0][0])}."
    return paragraph(text) + table(("time of the tasks", "share", "meaning"), rows)


def add_origin(page: ReportPage, output: Folder) -> None:
    """What made the OUTPUT: its run.json."""
    rows, record = [], read_record(output) or {}
    for name, value in record.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} {key}".strip(), str(item)) for key, item in inner]
    page.add("How it was made", table(("in run.json", "value"), rows))


def _percent(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if part and whole else ""


def _seconds(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:,.1f} min" if seconds >= 180 else f"{seconds:.2f} s"
