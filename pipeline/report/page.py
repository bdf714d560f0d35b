"""The HTML of a report: one file with its style, script, pictures and sound inside.

Its content policy allows no request at all, so that it opens without a network and tells nobody.
Text that comes from data is escaped.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder

MOST_NOTES = 5
HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; media-src data:; " + (
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


class ReportPage:
    """A page of sections, each with a heading and a place in the table of contents."""

    def __init__(self, title: str, about: str) -> None:
        """about: one sentence below the title."""
        self.title, self.about = title, about
        self.sections: list[tuple[str, str]] = []

    def add(self, title: str, *parts: str) -> None:
        """A section. parts: HTML."""
        self.sections.append((title, "".join(parts)))

    def html(self) -> str:
        """The whole page."""
        links = "".join(
            f'<a href="#s{place}">{escape(title)}</a>'
            for place, (title, _) in enumerate(self.sections)
        )
        sections = "".join(
            f'<section id="s{place}"><h2>{escape(title)}</h2>{body}</section>'
            for place, (title, body) in enumerate(self.sections)
        )
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{_text('page.css')}</style></head><body>"
            f"<header><h1>{escape(self.title)}</h1><p>{escape(self.about)}</p>"
            f'<nav aria-label="sections">{links}</nav></header><main>{sections}</main>'
            '<div id="tip" role="status" hidden></div>'
            f"<script>{_text('page.js')}</script></body></html>\n"
        )

    def publish(self, folder: Folder, name: str) -> None:
        """Write the page to a folder, whole or not at all."""
        with scratch_folder() as scratch:
            path = scratch / "page"
            path.write_text(self.html(), encoding="utf-8")
            folder.publish(path, name)
        folder.sweep()


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text. kind: "note" of what is missing or to be known."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def notes_of(notes: Sequence[str]) -> str:
    """The first few notes, and how many more there are."""
    shown = [paragraph(note, "note") for note in notes[:MOST_NOTES]]
    if len(notes) > MOST_NOTES:
        shown.append(paragraph(f"And {len(notes) - MOST_NOTES:,} more.", "note"))
    return "".join(shown)


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Figures side by side: (what it is, its value) each."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures
    )
    return f'<dl class="tiles">{cells}</dl>'


def hours(value: float) -> str:
    """Hours of audio or of work as a reader says them."""
    if value < 1:
        return f"{60 * value:,.1f} min"
    return f"{value:,.1f} h" if value >= 10 else f"{value:.2f} h"


def columns(*parts: str) -> str:
    """Charts side by side where there is room."""
    return f'<div class="columns">{"".join(part for part in parts if part)}</div>'


def data_url(kind: str, data: bytes) -> str:
    """A file inside the page. kind: its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def player(label: str, sound: bytes) -> str:
    """The browser's own player. sound: an Ogg Opus file."""
    name = escape(label)
    return (
        f'<div class="player"><span>{name}</span><audio controls preload="metadata" '
        f'aria-label="{name}" src="{data_url("audio/ogg", sound)}"></audio></div>'
    )


def snippet(label: str, spoken: str, sound: bytes) -> str:
    """A small button that plays a short sound. spoken: what it says to who does not see it."""
    return (
        f'<button type="button" class="snippet" data-sound="{data_url("audio/ogg", sound)}" '
        f'aria-label="{escape(spoken)}" title="{escape(spoken)}">{escape(label)}</button>'
    )


def sound_picture(
    picture: bytes | None, strip: bytes, codes: Sequence[int], *, seconds: float, spoken: str
) -> str:
    """A spectrogram with its tokens over it, which a reader can step through.

    picture, strip: PNG files that stand for the same seconds; without sound there is only the
    strip. spoken: its text.
    """
    name = escape(spoken)
    image = (
        f'<img class="spectrogram" alt="{name}" src="{data_url("image/png", picture)}">'
        if picture
        else ""
    )
    return (
        f'<div class="sound" tabindex="0" role="group" aria-label="{name}; arrow keys '
        f'read its tokens" data-codes="{escape(json.dumps(list(codes)))}" '
        f'data-seconds="{seconds:.3f}">'
        f'<img class="strip" alt="" src="{data_url("image/png", strip)}">'
        f'{image}<span class="cursor" hidden></span></div>'
    )
