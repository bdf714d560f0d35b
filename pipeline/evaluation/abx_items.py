"""The segments that ABX compares: lines of an item file, and the tokens that lie in them."""

import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import numpy as np

from tokenizer.audio.frames import FRAMES_PER_SECOND

HEADER = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")


class Item(NamedTuple):
    """A segment: frames [first, stop) of the utterance `key`.

    context: the phones before and after it.
    """

    key: str
    first: int
    stop: int
    phone: str
    context: tuple[str, str]
    speaker: str


class Segments(NamedTuple):
    """Segments that have frames: items, and (T,) codes of each.

    missing: how many others have no audio. empty: how many have no frame.
    """

    items: list[Item]
    codes: list[np.ndarray]
    missing: int
    empty: int

    def counts(self) -> dict[str, int]:
        """The figures beside the errors."""
        return {
            "abx_segments": len(self.items),
            "abx_segments_without_audio": self.missing,
            "abx_segments_without_frame": self.empty,
        }


def read_items(lines: Iterable[str]) -> list[Item]:
    """Read an item file: HEADER, then one segment a line, with its times in seconds.

    Frame i is at 10 + 20 i ms, and a segment has the frames within [onset, offset], both ends
    included, as in ABXpy and fastabx. Libri-Light's script drops the last of these frames. Raises
    ValueError that names the line.
    """
    items = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if number == 1:
            if tuple(fields) != HEADER:
                raise ValueError(f'line 1 is not the header "{" ".join(HEADER)}"')
            continue
        if not fields:
            continue
        if len(fields) != len(HEADER):
            raise ValueError(f"line {number} has {len(fields)} fields, not {len(HEADER)}")
        key, *times, phone, before, after, speaker = fields
        try:
            # Decimal, because 0.35 s in binary floating point falls into another frame.
            onset, offset = (Decimal(time) * FRAMES_PER_SECOND - Decimal("0.5") for time in times)
            frames = math.ceil(onset), math.floor(offset) + 1
        except (InvalidOperation, ValueError, OverflowError) as error:
            raise ValueError(f"line {number} has times that are not numbers") from error
        if not Decimal("-0.5") <= onset <= offset:
            raise ValueError(f"line {number} has a segment that ends before it begins")
        first, stop = frames
        items.append(
            Item(key, first=first, stop=stop, phone=phone, context=(before, after), speaker=speaker)
        )
    if not items:
        raise ValueError("it has no segments")
    return items


def find_segments(items: list[Item], codes: dict[str, np.ndarray]) -> Segments:
    """The segments of the items in the audio's codes, {key: (T,)}."""
    there = [item for item in items if item.key in codes]
    cut = [(item, codes[item.key][item.first : item.stop]) for item in there]
    full = [(item, segment) for item, segment in cut if len(segment)]
    return Segments(
        [item for item, _ in full],
        [segment for _, segment in full],
        missing=len(items) - len(there),
        empty=len(cut) - len(full),
    )
