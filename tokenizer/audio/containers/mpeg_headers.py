"""Headers of MPEG audio frames: how long a frame is, and what it must share with the next.

Layers I to III, and AAC in ADTS.
"""

import re
from typing import NamedTuple

# Bit rates in kbit/s by layer and index, for MPEG 1 (True) and for MPEG 2 and 2.5 (False), and
# sample rates in Hz by version bits and index: ISO/IEC 11172-3 and 13818-3.
_LOW_LAYERS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
BIT_RATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LOW_LAYERS,
    (False, 3): _LOW_LAYERS,
}
SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


class Kind(NamedTuple):
    """What all frames of a stream have in common. version: bits of the header."""

    version: int
    layer: int
    sample_rate: int
    mono: bool

    @property
    def samples(self) -> int:
        """Of a frame, per channel."""
        if self.layer == 1:
            return 384
        return 576 if self.layer == 3 and self.version != 3 else 1152

    @property
    def side_info(self) -> int:
        """Bytes of layer III's side information."""
        return (17 if self.mono else 32) if self.version == 3 else (9 if self.mono else 17)


class _Headers(dict[bytes, tuple[int, Kind] | None]):
    """Four bytes → (size of the frame with this header, its kind); None if they are no header."""

    def __missing__(self, head: bytes) -> tuple[int, Kind] | None:
        if len(self) > 1 << 16:
            self.clear()
        self[head] = found = _parse(head)
        return found


def _parse(head: bytes) -> tuple[int, Kind] | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bit_rate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    kind = Kind(version, layer, SAMPLE_RATES[version][rate], mono=head[3] >> 6 == 3)
    kind = KINDS.setdefault(kind, kind)  # equal kinds are one object
    bits = BIT_RATES[version == 3, layer][bit_rate] * 1000
    slot = 4 if layer == 1 else 1
    return (kind.samples // 8 * bits // (kind.sample_rate * slot) + padding) * slot, kind


HEADERS = _Headers()
KINDS: dict[Kind, Kind] = {}

# What is found by its frames alone must have so many of one kind in a row: by chance fewer than one
# place in 10^12 looks so.
FRAMES_IN_A_ROW = 3
LARGEST_FRAME = 1 << 13  # bytes: the largest that ADTS can say
# The beginnings of headers, of the former and of ADTS.
SYNC = re.compile(
    rb"\xff(?:[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff][\x10-\xef]"
    rb"|[\xf0\xf1\xf8\xf9][\0-\x33\x40-\x73\x80-\xb3\xc0-\xf3])"
)


def adts_size(data: bytes) -> int:
    """Bytes of the ADTS frame that begins here; 0 if there is none."""
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0 or data[2] >> 2 & 15 > 12:
        return 0
    size = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    return size if size > 7 else 0


def find_frames(data: bytes, limit: int, row: int = FRAMES_IN_A_ROW) -> int:
    """The first place, before `limit`, where `row` frames of one kind follow; -1 if none."""
    for match in SYNC.finditer(data, 0, limit + 2):
        place = match.start()
        if _mpeg_follow(data, place, row) or _adts_follow(data, place, row):
            return place
    return -1


def _mpeg_follow(data: bytes, place: int, row: int) -> bool:
    kind = None
    for _ in range(row):
        frame = HEADERS[data[place : place + 4]]
        if frame is None or frame[1] is not (kind or frame[1]):
            return False
        kind = frame[1]
        place += frame[0]
    return True


def _adts_follow(data: bytes, place: int, row: int) -> bool:
    first = data[place : place + 3]
    for _ in range(row):
        size = adts_size(data[place : place + 7])
        # Profile, rate and checksum are the same in all frames.
        if not size or data[place : place + 3] != first:
            return False
        place += size
    return True
