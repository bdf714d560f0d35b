"""What a report shows of a language model: curves, bits by position, accuracies, continuations.

All of it comes as plain numbers and sound: nothing here knows the model.
"""

from collections.abc import Sequence
from html import escape

import numpy as np

from pipeline.report.accuracy_chart import Accuracy, accuracy_chart
from pipeline.report.charts import Series, line_chart, number, table
from pipeline.report.page import (
    ReportPage,
    columns,
    hours,
    notes_of,
    paragraph,
    player,
    tiles,
)
from pipeline.report.sounds import opus

CHANCE = 0.5
MOST_POINTS = 200
# Of a training's log: the charts, each with the lines it has of these.
CURVES = (
    ("Bits per token", "bits", ("bits_per_token", "valid_bits_per_token")),
    ("Loss", "nats", ("loss",)),
    ("Reward accuracy", "share", ("reward_accuracy",)),
    ("Nats of a continuation", "nats", ("chosen_nats", "rejected_nats")),
    ("Learning rate", "rate", ("learning_rate",)),
    ("Gradient norm", "norm", ("gradient_norm",)),
    ("Speed", "tokens a second", ("tokens_per_second",)),
)
NAMES = {
    "bits_per_token": "training",
    "valid_bits_per_token": "validation",
    "chosen_nats": "chosen",
    "rejected_nats": "rejected",
}


def add_curves(page: ReportPage, log: Sequence[dict]) -> None:
    """The curves of a training. log: its lines, with "step" each."""
    charts = []
    for title, unit, names in CURVES:
        lines = []
        for name in names:
            points = [(line["step"], line[name]) for line in log if name in line]
            if not points:
                continue
            kept = points[:: max(1, len(points) // MOST_POINTS)]
            kept = kept if kept[-1] == points[-1] else [*kept, points[-1]]
            xs, ys = zip(*kept)
            lines.append(Series(NAMES.get(name, name.replace("_", " ")), xs, ys))
        if lines:
            charts.append(line_chart(title, lines, x="steps", y=unit))
    last = log[-1]
    shown = [("steps", f"{last['step']:,}")]
    shown += [("tokens", number(last["tokens"]))] if "tokens" in last else []
    shown += [("time", hours(last["hours"]))] if "hours" in last else []
    valid = [line["valid_bits_per_token"] for line in log if "valid_bits_per_token" in line]
    if valid:
        shown.append(("bits, best validation", number(min(valid))))
    page.add("Training of the language model", tiles(shown), columns(*charts))


def add_positions(
    page: ReportPage,
    *,
    seconds: Sequence[float],
    bits: Sequence[float],
    in_chunk: Sequence[float],
    utterances: int,
) -> None:
    """Bits per token by position. seconds, bits: of each place in the utterance.

    in_chunk: bits of the first, second and further tokens of a chunk. utterances: that were scored.
    """
    places = list(range(1, len(in_chunk) + 1))
    charts = [
        line_chart(
            "Bits per token by time",
            [Series("bits", seconds, bits)],
            x="seconds into the utterance",
            y="bits per token",
            about="It falls as long as more of the past helps.",
            from_zero=True,
        )
    ]
    if len(in_chunk) > 1:
        charts.append(
            line_chart(
                "Bits per token by place in the chunk",
                [Series("bits", places, in_chunk)],
                x="place in the chunk",
                y="bits per token",
                about="A chunk is predicted at once: later tokens are further from what is known.",
                from_zero=True,
            )
        )
    page.add(
        "Bits by position",
        paragraph(
            f"Of {utterances:,} utterances drawn from the tokens above; the model may have been "
            "trained on them."
        ),
        columns(*charts),
    )


def add_accuracies(
    page: ReportPage, figures: Sequence[tuple[str, list[Accuracy]]], about: str
) -> None:
    """Shares of pairs in which the right recording is likelier. figures: by folder of pairs."""
    charts = [
        accuracy_chart(f"Pairs of {folder}", tasks, chance=CHANCE) for folder, tasks in figures
    ]
    text = (
        "How often the consistent one of two recordings is likelier per token, with 95 % intervals."
    )
    page.add("Consistency", paragraph(text), paragraph(about) if about else "", columns(*charts))


def add_continuations(
    page: ReportPage,
    heard: Sequence[tuple[str, np.ndarray, np.ndarray, int]],
    notes: Sequence[str],
) -> None:
    """Players for prompts and what follows. heard: (key, prompt, continuation, rate) each."""
    cards = []
    for key, prompt, continuation, rate in heard:
        seconds = f"{len(prompt) / rate:.1f} s, then {len(continuation) / rate:.1f} s"
        players = [
            player(label, opus(wave, rate))
            for label, wave in (("prompt", prompt), ("continuation", continuation))
            if len(wave)
        ]
        joined = player("both", opus(np.concatenate([prompt, continuation]), rate))
        cards.append(
            f'<article class="card"><h3>{escape(key)}</h3>{"".join(players)}{joined}'
            f"{paragraph(seconds)}</article>"
        )
    page.add("Continuations", notes_of(notes), f'<div class="cards">{"".join(cards)}</div>')


def add_figures(page: ReportPage, files: Sequence[tuple[str, list[tuple[str, str, str]]]]) -> None:
    """Figures as they were measured. files: (name, rows of (figure, value, 95 % interval)) each."""
    parts = []
    for name, rows in files:
        with_interval = any(interval for _, _, interval in rows)
        heads = ("figure", "value", "95 % interval") if with_interval else ("figure", "value")
        shown = [row if with_interval else row[:2] for row in rows]
        parts.append(f"<h3>{escape(name)}</h3>{table(heads, shown)}")
    page.add("Figures", *parts)
