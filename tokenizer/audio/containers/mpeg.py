"""MPEG audio, layers I to III: streams of frames, with or without a frame that says how many.

An Xing, Info or VBRI frame has the number of frames, and libsndfile stops there. Without one it
guesses the length from the first frame's bit rate, and loses half of a stream of variable bit rate.
Both are wrong in joined streams, and in those that a pipe, a radio or a recorder that died has
written. So the frames are counted; what lies between them is left out, and a number that is
missing or too small is put right.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from tokenizer.audio.containers.mpeg_headers import HEADERS, Kind
from tokenizer.audio.containers.others import check_no_other, check_rest
from tokenizer.audio.containers.parts import (
    BLOCK_BYTES,
    UNCLAIMED_SHARE,
    Part,
    after_id3v2,
    after_tags,
    joined,
    read_at,
    size_of,
    view,
)
from tokenizer.audio.reasons import NOT_AUDIO, TRUNCATED, UNCLAIMED, AudioError

LARGEST_FRAME = 4 * 1728  # bytes
# Bytes before a first frame that does not say how many frames there are.
MOST_BEFORE = 1 << 16
MOST_TRIMMED = 2 * 0xFFF  # samples: two fields of 12 bits in LAME's tag
TAGS = (b"Xing", b"Info", b"VBRI")


@dataclass
class MpegStream:
    """Frames of one kind. runs: the ranges of the file in which they follow each other.

    count: without the tag. tag: the place of a frame that says how many there are; None without.
    """

    kind: Kind
    tag: int | None = None
    count: int = 0
    runs: list[tuple[int, int]] = field(default_factory=list)
    skipped: int = 0

    @property
    def bytes(self) -> int:
        """Of all frames."""
        return sum(stop - start for start, stop in self.runs)

    @property
    def least_samples(self) -> int:
        """Of the decoded stream, from which a tag may have trimmed what the encoder added."""
        trimmed = MOST_TRIMMED if self.kind.layer == 3 else 0
        return max(0, (self.count - 3) * self.kind.samples - trimmed)


class _Buffer:
    """A file's bytes around a moving place."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.stop = file, size_of(file)
        self.base, self.data = 0, b""
        self.tags: list[int] = []

    def load(self, at: int) -> None:
        """Make `data` begin at byte `at`, and find the tags in it."""
        self.base, self.data = at, read_at(self.file, at, BLOCK_BYTES)
        self.tags = sorted(_tagged(self.data))

    def has(self, at: int, size: int) -> bool:
        """Whether bytes [at, at + size), or those up to the end, are in `data`."""
        end = self.base + len(self.data)
        return self.base <= at and (at + size <= end or end >= self.stop)


def _tagged(data: bytes) -> Iterator[int]:
    """Where frames begin that have a tag."""
    for name in TAGS:
        at = -1
        while (at := data.find(name, at + 1)) >= 0:
            for before in (36,) if name == b"VBRI" else (13, 21, 36):
                frame = HEADERS[data[at - before : at - before + 4]] if at >= before else None
                if frame is None or frame[1].layer != 3:
                    continue
                if name == b"VBRI" or before == 4 + frame[1].side_info:
                    yield at - before


def read_mpeg(file: BinaryIO, start: int) -> Iterator[Part]:
    """The parts of one or several joined streams, from byte `start` on.

    A stream ends where a tag or frames of another kind begin. Raises AudioError(TRUNCATED) when
    frames are missing, UNCLAIMED when more may follow, and NOT_AUDIO when there are none.
    """
    streams, end, partial = _streams(file, start)
    stop = size_of(file)
    if not streams:
        raise AudioError(NOT_AUDIO, "no MPEG frames")
    if partial:
        raise AudioError(TRUNCATED, "the last frame is cut")
    first = streams[0].runs[0][0]
    certain = all(stream.tag is not None for stream in streams)
    before = first - after_id3v2(file, start)
    if streams[0].tag is None and before > max(MOST_BEFORE, UNCLAIMED_SHARE * stop):
        raise AudioError(TRUNCATED, f"{before} bytes before the first frame are no audio")
    if not certain:
        audio = sum(stream.bytes for stream in streams)
        check_rest(file, end, stop, audio=audio)
        if stop - end > UNCLAIMED_SHARE * audio and read_at(file, end, 64).strip(b"\0") == b"":
            raise AudioError(UNCLAIMED, f"the last {stop - end} bytes, zeros, may be a hole")
    check_no_other(file, end)
    untouched = len(streams) == 1 and not before
    for stream in streams:
        if stream.skipped > UNCLAIMED_SHARE * stream.bytes:
            raise AudioError(TRUNCATED, f"{stream.skipped} bytes between frames are damaged")
        yield Part(
            file=_mended(file, stream, untouched=untouched),
            format="mp3",
            least_samples=stream.least_samples,
        )


def _streams(file: BinaryIO, start: int) -> tuple[list[MpegStream], int, bool]:
    """All streams, where the last frame ends, and whether the file ends within a frame."""
    buffer, streams = _Buffer(file), list[MpegStream]()
    at, stop = start, buffer.stop
    end = after_id3v2(file, start)
    while True:
        at = _next_frame(buffer, after_id3v2(file, at), first=not streams)
        if at >= stop:
            return streams, end, False
        head = buffer.data[at - buffer.base :][:4]
        kind = HEADERS[head][1]  # type: ignore[index]
        tagged = at - buffer.base in buffer.tags
        if tagged or not streams or streams[-1].kind != kind:
            streams.append(MpegStream(kind, at if tagged else None))
        else:
            streams[-1].skipped += max(0, at - after_tags(file, end))
        stream = streams[-1]
        run = at
        at, count, partial = _follow(buffer, at, kind)
        stream.count += count - tagged
        stream.runs.append((run, at))
        end = at
        if partial:
            return streams, end, True


def _follow(buffer: _Buffer, at: int, kind: Kind) -> tuple[int, int, bool]:
    """(where frames of one kind stop following each other, how many did, whether one is cut)."""
    count, stop, headers = 0, buffer.stop, HEADERS
    while at < stop:
        if not buffer.has(at, LARGEST_FRAME):
            buffer.load(at)
        data, place = buffer.data, at - buffer.base
        # Up to the next tag, or to where another block is needed.
        limit = len(data)
        if buffer.base + limit < stop:
            limit -= LARGEST_FRAME - 1
        limit = min(
            [limit, *(tag for tag in buffer.tags if tag > place or (count and tag == place))]
        )
        if place == limit:
            return at, count, False
        while place < limit:
            frame = headers[data[place : place + 4]]
            if frame is None or frame[1] is not kind:
                at = buffer.base + place
                return at, count, _is_cut(data[place:]) if stop - at < 4 else False
            place += frame[0]
            count += 1
        at = buffer.base + place
    return stop, count - (at > stop), at > stop


def _is_cut(end: bytes) -> bool:
    """Whether the file's last bytes, up to three, are the beginning of a header."""
    return end[:1] == b"\xff" and (len(end) < 2 or end[1] & 0xE0 == 0xE0)


def _next_frame(buffer: _Buffer, at: int, first: bool) -> int:
    """Where the next frame is that two more follow, or the file's end; the end if there is none.

    first: the frame at `at` itself may be all there is.
    """
    origin = at
    while True:
        if not buffer.has(at, 4 * LARGEST_FRAME):
            buffer.load(at)
        data, base = buffer.data, buffer.base
        last = base + len(data) >= buffer.stop
        limit = len(data) if last else len(data) - 4 * LARGEST_FRAME
        place = data.find(b"\xff", at - base, limit)
        if place < 0:
            if last:
                return buffer.stop
            at = base + limit
            continue
        at = base + place
        if _chain(data, place, single=first and at == origin):
            return at
        at += 1


def is_mpeg(data: bytes) -> bool:
    """Whether three frames of one kind begin here."""
    return len(data) >= 4 and _chain(data, 0, single=False)


def _chain(data: bytes, place: int, single: bool) -> bool:
    frame = HEADERS[data[place : place + 4]]
    kind = frame and frame[1]
    for number in range(3):
        if frame is None or frame[1] != kind:
            return False
        place += frame[0]
        if place >= len(data) - 3:
            return single or (number > 0 and place <= len(data))
        frame = HEADERS[data[place : place + 4]]
    return True


def _mended(file: BinaryIO, stream: MpegStream, untouched: bool) -> BinaryIO:
    """What libsndfile decodes whole: all of the stream's frames, and their number in front."""
    first, runs = stream.runs[0][0], list[bytes | tuple[int, int]](stream.runs)
    if stream.kind.layer != 3:
        return joined(file, runs)
    if stream.tag is None:
        return joined(file, [_info_frame(read_at(file, first, 4), stream), *runs])
    claim, patches = _claim(file, stream)
    if claim is not None and claim > stream.count + 1:
        raise AudioError(TRUNCATED, f"{stream.count} of {claim} frames are there")
    if claim == stream.count and untouched and len(runs) == 1:
        return view(file, 0, size_of(file))
    tag_stop = first + HEADERS[read_at(file, first, 4)][0]  # type: ignore[index]
    runs[0] = (tag_stop, stream.runs[0][1])
    if claim is None:
        return joined(file, [_info_frame(read_at(file, first, 4), stream), *runs])
    tag = bytearray(read_at(file, first, tag_stop - first))
    for place, value in patches.items():
        tag[place - first : place - first + 4] = struct.pack(">I", value)
    return joined(file, [bytes(tag), *runs])


def _claim(file: BinaryIO, stream: MpegStream) -> tuple[int | None, dict[int, int]]:
    """The number of frames that the tag says, and the words of the tag that must be put right."""
    assert stream.tag is not None
    if read_at(file, stream.tag + 36, 4) == b"VBRI":
        at = stream.tag + 36
        claim = int.from_bytes(read_at(file, at + 14, 4), "big")
        return claim, {at + 10: stream.bytes, at + 14: stream.count}
    at = stream.tag + 4 + stream.kind.side_info
    flags = int.from_bytes(read_at(file, at + 4, 4), "big")
    if not flags & 1:
        return None, {}
    patches = {at + 8: stream.count}
    if flags & 2:
        patches[at + 12] = stream.bytes
    return int.from_bytes(read_at(file, at + 8, 4), "big"), patches


def _info_frame(head: bytes, stream: MpegStream) -> bytes:
    """An Info frame with the number of frames. head: the header of a frame of the stream."""
    # Without a checksum, and with a bit rate that makes room for the tag.
    header = bytearray(head)
    header[1] |= 1
    header[2] = header[2] & 0x0D | 0xA0
    size = HEADERS[bytes(header)][0]  # type: ignore[index]
    tag = struct.pack(">4sIII", b"Info", 3, stream.count, stream.bytes + size)
    return (bytes(header) + bytes(stream.kind.side_info) + tag).ljust(size, b"\0")
