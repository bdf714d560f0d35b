"""FLAC (RFC 9639): how many samples its frames hold, whatever its header says.

The header has the number of samples, 0 when a pipe has written it. Every frame says where it begins
in the stream, so that the last one gives the number too. When both agree nothing else is read. When
they do not, the frames are counted, and the header gets their number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from tokenizer.audio.containers.others import check_no_other
from tokenizer.audio.containers.parts import BLOCK_BYTES, Part, find_bytes, read_at, size_of, view
from tokenizer.audio.reasons import NOT_AUDIO, TRUNCATED, AudioError

MAGIC = b"fLaC"
STREAMINFO = (b"\0\0\0\x22", b"\x80\0\0\x22")  # header of the first metadata block
# What libFLAC may have read beyond the last frame that it decoded.
READ_AHEAD = 1 << 16
# Bytes of a frame's header: 4, up to 7 of its number, 2 of its size, 2 of its rate, its CRC-8.
HEADER_BYTES = 16
RATE_BYTES = {12: 1, 13: 2, 14: 2}  # by the code of the rate
BLOCK_SIZES = (0, 192, 576, 1152, 2304, 4608, 0, 0, *(256 << n for n in range(8)))


def _crc8_table() -> bytes:
    table = bytearray(256)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
        table[byte] = value
    return bytes(table)


CRC8 = _crc8_table()


@dataclass(frozen=True)
class StreamInfo:
    """Of the first metadata block. at: its content. frames_at: the first frame, after all blocks.

    block_size, frame_bytes: the largest. samples: 0 if unknown.
    """

    at: int
    block_size: int
    frame_bytes: int
    samples: int
    frames_at: int


def read_flac(file: BinaryIO, start: int) -> Iterator[Part]:
    """The parts of one or several joined FLAC streams, from byte `start` on.

    A part must be decoded before the next is asked for. Raises AudioError(TRUNCATED) when the last
    frame comes before the header's end, NOT_AUDIO for a header that is none, and UNCLAIMED when a
    file of another kind follows.
    """
    stop = size_of(file)
    while True:
        info = _stream_info(file, start)
        samples, patches = info.samples, {}
        if not samples and info.frames_at >= stop:
            return  # a header without frames
        last = _last_frame(file, info, stop) if samples else -1
        if last < 0:
            counted = _count(file, info, stop)
            if counted < samples:
                raise AudioError(TRUNCATED, f"{counted} of {samples} samples are there")
            if counted > samples:
                samples = counted
                field = read_at(file, info.at + 13, 1)[0] & 0xF0
                number = field << 32 | samples
                patches = {info.at + 13: number.to_bytes(5, "big")}
        sound = view(file, start, stop, patches=patches)
        sound.seek(0)
        yield Part(file=sound, format="flac", least_samples=samples)
        reached = start + sound.tell()
        behind = max(info.frames_at, reached - READ_AHEAD - info.frame_bytes)
        start = _next_stream(file, behind)
        if start < 0:
            check_no_other(file, max(behind, last))
            return


def is_flac(head: bytes) -> bool:
    """Whether a stream begins with these eight bytes."""
    return head[:4] == MAGIC and head[4:8] in STREAMINFO


def holds_frames(data: bytes) -> bool:
    """Whether there are frames of a stream whose header is not there: two that are alike."""
    unknown = StreamInfo(at=0, block_size=1 << 16, frame_bytes=0, samples=0, frames_at=0)
    seen, at = set[bytes](), -1
    while (at := data.find(b"\xff", at + 1)) >= 0:
        if _frame(data[at : at + HEADER_BYTES], unknown):
            kind = data[at : at + 4]
            if kind in seen:
                return True
            seen.add(kind)
    return False


def _stream_info(file: BinaryIO, start: int) -> StreamInfo:
    at, info = start + 4, read_at(file, start + 8, 34)
    if len(info) < 34:
        raise AudioError(NOT_AUDIO, "the FLAC's header is cut")
    while True:
        block = read_at(file, at, 4)
        if len(block) < 4:
            raise AudioError(TRUNCATED, "the FLAC's metadata are cut")
        at += 4 + int.from_bytes(block[1:4], "big")
        if block[0] & 0x80:
            break
    return StreamInfo(
        at=start + 8,
        block_size=int.from_bytes(info[2:4], "big"),
        frame_bytes=int.from_bytes(info[7:10], "big"),
        samples=int.from_bytes(info[13:18], "big") & (1 << 36) - 1,
        frames_at=at,
    )


def _last_frame(file: BinaryIO, info: StreamInfo, stop: int) -> int:
    """Where the frame begins with which the header's number of samples is complete.

    It is looked for near the end of the file; -1 if it is not there.
    """
    size = 2 * info.frame_bytes + 4096 if info.frame_bytes else 1 << 16
    begin = max(info.frames_at, stop - size)
    tail = read_at(file, begin, stop - begin)
    place = len(tail)
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        frame = _frame(tail[place : place + HEADER_BYTES], info)
        if frame and frame[1] == info.samples:
            return begin + place
    return -1


def _frame(head: bytes, info: StreamInfo) -> tuple[int, int] | None:
    """(first sample, the one after the last) of the frame with this header; None if it is none."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    number, at = _coded_number(head, 4)
    code = head[2] >> 4
    if at is None or not code or head[2] & 15 == 15:
        return None
    size = BLOCK_SIZES[code]
    if code in (6, 7):
        size = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    at += RATE_BYTES.get(head[2] & 15, 0)
    if at >= len(head) or size > max(info.block_size, 16):
        return None
    crc = 0
    for byte in head[:at]:
        crc = CRC8[crc ^ byte]
    if crc != head[at]:
        return None
    first = number if head[1] & 1 else number * info.block_size
    return first, first + size


def _coded_number(head: bytes, at: int) -> tuple[int, int | None]:
    """A number coded as in UTF-8, of up to 36 bits, and where it ends; None if it is none."""
    first = head[at]
    if first < 0x80:
        return first, at + 1
    length = 8 - (first ^ 0xFF).bit_length()
    rest = head[at + 1 : at + length]
    if length < 2 or length > 7 or len(rest) < length - 1 or any(b & 0xC0 != 0x80 for b in rest):
        return 0, None
    number = first & (0x7F >> length)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, at + length


def _count(file: BinaryIO, info: StreamInfo, stop: int) -> int:
    """Samples of the frames that follow each other without a gap from the first on.

    Raises AudioError(TRUNCATED) when other frames follow: some are missing, or the header is wrong.
    """
    end = _next_stream(file, info.frames_at)
    stop = stop if end < 0 else end
    samples = frames = others = 0
    for place in range(info.frames_at, stop, BLOCK_BYTES):
        block = read_at(file, place, min(BLOCK_BYTES + HEADER_BYTES, stop - place))
        at = -1
        while 0 <= (at := block.find(b"\xff", at + 1)) < BLOCK_BYTES:
            if len(block) > at + 1 and block[at + 1] & 0xFE == 0xF8:
                frame = _frame(block[at : at + HEADER_BYTES], info)
                if frame and frame[0] == samples:
                    samples, frames = frame[1], frames + 1
                elif frame:
                    others += 1
    # A frame's own bytes look like a header now and then.
    if others > 1 + frames // 50:
        raise AudioError(TRUNCATED, f"{others} FLAC frames are out of order")
    return samples


def _next_stream(file: BinaryIO, start: int) -> int:
    """Where another stream begins, at `start` or later; -1 where there is none."""
    while (start := find_bytes(file, MAGIC, start)) >= 0:
        if is_flac(read_at(file, start, 8)):
            return start
        start += 1
    return -1
