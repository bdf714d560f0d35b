"""What a report shows of tokens in pictures and sound: samples, and what a unit sounds like."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from pipeline.report.overview import DrawnUtterance
from pipeline.report.page import ReportPage, notes_of, paragraph, player, snippet, sound_picture
from pipeline.report.pictures import code_colour, spectrogram, token_strip
from pipeline.report.sounds import opus
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.resampling import resample


@dataclass(frozen=True)
class ShownSample:
    """An utterance of the report. tokens: (T,). original: (n,) at 16 kHz, if it was found.

    resynthesis: (n,) at `rate`, if the tokenizer has a vocoder. seconds: that are shown.
    """

    utterance: DrawnUtterance
    tokens: np.ndarray
    seconds: float
    original: np.ndarray | None
    resynthesis: np.ndarray | None
    rate: int


@dataclass(frozen=True)
class ShownCode:
    """A code of the report: how often it occurs, the codes nearest to it, and its snippets.

    count: in all shards. snippets: (what it is of, its sound at 16 kHz) each.
    """

    code: int
    count: int
    rank: int
    nearest: list[int]
    snippets: list[tuple[str, np.ndarray]]


def add_samples(
    page: ReportPage, samples: Sequence[ShownSample], *, seed: int, notes: Sequence[str]
) -> None:
    """Utterances: spectrogram, tokens over it, players. notes: why sound is missing."""
    about = (
        f"{len(samples)} utterances drawn by seed {seed} from all that were tokenized. A column of "
        "the strip is a token, and a code has one colour everywhere. Hover, or focus and use the "
        "arrow keys; a double click plays from there."
    )
    cards = "".join(_sample(sample) for sample in samples)
    page.add("Samples", paragraph(about), notes_of(notes), f'<div class="cards">{cards}</div>')


def _sample(sample: ShownSample) -> str:
    utterance, tokens = sample.utterance, sample.tokens
    shown = sample.original
    if shown is None and sample.resynthesis is not None:
        shown = np.concatenate(list(resample([sample.resynthesis], sample.rate)))
    length = f"{utterance.duration_s:.2f} s, {utterance.num_tokens:,} tokens"
    if len(tokens) < utterance.num_tokens:
        length += f"; its first {sample.seconds:.0f} s"
    of = "the original" if sample.original is not None else "the resynthesis"
    spoken = f"Spectrogram of {of} of {utterance.key}, 0 to 8 kHz, with its tokens"
    parts = [f"<h3>{escape(utterance.key)}</h3>"]
    parts.append(
        sound_picture(
            None if shown is None else spectrogram(shown, sample.seconds),
            token_strip(tokens),
            tokens.tolist(),
            seconds=sample.seconds,
            spoken=spoken if shown is not None else f"Tokens of {utterance.key}",
        )
    )
    if sample.original is not None:
        parts.append(player("original", opus(sample.original, SAMPLE_RATE)))
    if sample.resynthesis is not None:
        parts.append(player("resynthesis", opus(sample.resynthesis, sample.rate)))
    parts.append(paragraph(f"{utterance.shard}; {length}"))
    return f'<article class="card">{"".join(parts)}</article>'


def add_units(page: ReportPage, codes: Sequence[ShownCode], *, frames: int, shards: int) -> None:
    """What some codes sound like. frames, shards: that the index was made of."""
    about = (
        f"{len(codes)} codes from the most used to the rarest. Each snippet is original speech "
        f"around a frame of the code, drawn evenly from the {frames:,} frames of the {shards:,} "
        "shards that hold the samples above."
    )
    if not any(code.snippets for code in codes):
        about = f"{len(codes)} codes from the most used to the rarest; no sound of them was found."
    cards = "".join(_unit(code) for code in codes)
    page.add(
        "What a unit sounds like",
        paragraph(about),
        f'<div class="cards">{cards}</div>',
    )


def _unit(shown: ShownCode) -> str:
    red, green, blue = code_colour(shown.code)
    swatch = f'<span class="swatch" style="background: rgb({red},{green},{blue})"></span>'
    buttons = "".join(
        snippet(
            str(place + 1),
            f"code {shown.code}, snippet {place + 1}, {of}",
            opus(wave, SAMPLE_RATE, fade=True),
        )
        for place, (of, wave) in enumerate(shown.snippets)
    )
    if buttons:
        name = f"play all snippets of code {shown.code}"
        buttons = f'<button type="button" class="all" aria-label="{name}">all</button>{buttons}'
    text = f"{shown.count:,} times, rank {shown.rank:,}"
    if shown.nearest:
        text += f"; nearest codes: {', '.join(map(str, shown.nearest))}"
    return (
        f'<article class="card"><h3>{swatch}code {shown.code}</h3><div class="snippets">{buttons}'
        f"</div>{paragraph(text)}</article>"
    )
