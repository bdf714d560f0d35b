"""MP3 streams that do not say how long they are.

What a radio stream or a pipe wrote has no Xing or Info frame. libsndfile then guesses the length
from the first frame's bit rate, and stops reading there: with a variable bit rate half the audio is
lost without an error. So the frames are counted, and an Info frame with the count is put in front.
"""

import struct
from typing import NamedTuple

# Layer III's bit rates in kbit/s by index, for MPEG 1 (True) and for MPEG 2 and 2.5 (False), and
# sample rates in Hz by version bits and index: ISO/IEC 11172-3 and 13818-3.
BIT_RATES = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


class _Frame(NamedTuple):
    size: int
    side_info: int


def _frame(data: bytes, at: int) -> _Frame | None:
    """The layer III frame whose header is at byte `at`; None if there is none."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    bit_rate, rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer != 1 or bit_rate in (0, 15) or rate == 3:
        return None
    mpeg1, mono = version == 3, data[at + 3] >> 6 == 3
    kbit, hertz = BIT_RATES[mpeg1][bit_rate], SAMPLE_RATES[version][rate]
    size = (144 if mpeg1 else 72) * 1000 * kbit // hertz + (data[at + 2] >> 1 & 1)
    side_info = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    return _Frame(size, side_info)


def _next_frame(data: bytes, at: int) -> int:
    """Byte of the next frame from `at` on that is followed by another frame or by the end."""
    while (at := data.find(b"\xff", at)) >= 0:
        frame = _frame(data, at)
        if frame and (at + frame.size >= len(data) or _frame(data, at + frame.size)):
            return at
        at += 1
    return len(data)


def length_frame(data: bytes) -> bytes | None:
    """An Info frame with the number of frames in `data`; None if it has one, or is no MP3."""
    at = 0
    if data[:3] == b"ID3" and len(data) > 10:
        at = 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])
    first = at = _next_frame(data, at)
    frame = _frame(data, first)
    if frame is None or _tagged(data, first, frame):
        return None
    count = 0
    while at < len(data):
        frame = _frame(data, at)
        if frame is None:
            at = _next_frame(data, at)
            continue
        count += 1
        at += frame.size
    # The first frame's header, without a checksum and with a bit rate that makes room for the tag.
    header = bytearray(data[first : first + 4])
    header[1] |= 1
    header[2] = header[2] & 0x0D | 0xA0
    info = _frame(bytes(header), 0)
    assert info is not None, "another valid bit rate keeps a header valid"
    tag = struct.pack(">4sIII", b"Info", 3, count, len(data) - first + info.size)
    return (bytes(header) + bytes(info.side_info) + tag).ljust(info.size, b"\0")


def _tagged(data: bytes, at: int, frame: _Frame) -> bool:
    tag = at + 4 + frame.side_info
    return data[tag : tag + 4] in (b"Xing", b"Info") or data[at + 36 : at + 40] == b"VBRI"
