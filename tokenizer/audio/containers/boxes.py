"""Containers that FFmpeg decodes: MP4 and QuickTime, Matroska and WebM, ASF (WMA).

Each is a list of elements with their sizes. FFmpeg takes an element that is cut for the file's end.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from tokenizer.audio.containers.others import check_rest
from tokenizer.audio.containers.parts import Part, read_at, size_of, view
from tokenizer.audio.reasons import NOT_AUDIO, TRUNCATED, AudioError

MP4_FIRST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
EBML, SEGMENT, CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
# Elements of the file, of a segment and of a cluster.
ELEMENTS = {EBML, SEGMENT, CLUSTER, b"\xec", b"\xbf"}
ELEMENTS |= {b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x1c\x53\xbb\x6b"}
ELEMENTS |= {b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70", b"\x12\x54\xc3\x67"}
ELEMENTS |= {b"\xe7", b"\x58\x54", b"\xa7", b"\xab", b"\xa3", b"\xa0", b"\xaf"}
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def read_mp4(file: BinaryIO, start: int) -> Iterator[Part]:
    """The parts of one or several joined MP4 files, from `start` on.

    Raises AudioError(TRUNCATED) when a box is longer than the file, or there is no box "moov",
    which recorders write at the end.
    """
    stop, at, begin = size_of(file), start, start
    names = set[bytes]()
    audio = 0
    while at + 8 <= stop:
        size, name = struct.unpack(">I4s", read_at(file, at, 8))
        if not all(32 <= byte < 127 or byte == 0xA9 for byte in name):
            break
        if name == b"ftyp" and b"moov" in names:
            yield _mp4(file, begin, at)
            names, begin = set[bytes](), at
        if size == 1:
            size = int.from_bytes(read_at(file, at + 8, 8), "big")
        size = size or stop - at
        if size < 8:
            break
        if at + size > stop:
            if names >= {b"moov"} and name not in (b"mdat", b"moof", b"moov"):
                break
            raise AudioError(TRUNCATED, f"box {name!r} is cut")
        names.add(name)
        at += size
        audio += size
    if b"moov" not in names:
        raise AudioError(TRUNCATED, "the index, box 'moov', is missing")
    check_rest(file, at, stop, audio=audio)
    yield _mp4(file, begin, at)


def _mp4(file: BinaryIO, start: int, stop: int) -> Part:
    return Part(file=view(file, start, stop), format="mov", sndfile=False)


def read_asf(file: BinaryIO, start: int) -> Iterator[Part]:
    """The parts of one or several joined ASF files, from `start` on.

    Raises AudioError(TRUNCATED) when an object is longer than the file.
    """
    stop, at, begin, found = size_of(file), start, start, False
    while at + 24 <= stop:
        name, size = struct.unpack("<16sQ", read_at(file, at, 24))
        if size < 24:
            break
        if at + size > stop:
            raise AudioError(TRUNCATED, "an object of the ASF is cut")
        if name == ASF_HEADER and found:
            yield Part(file=view(file, begin, at), format="asf", sndfile=False)
            begin, found = at, False
        found |= name == ASF_DATA
        at += size
    if not found:
        raise AudioError(TRUNCATED, "the ASF has no data")
    check_rest(file, at, stop, audio=at - begin)
    yield Part(file=view(file, begin, at), format="asf", sndfile=False)


def read_matroska(file: BinaryIO, start: int) -> Iterator[Part]:
    """The parts of one or several joined Matroska files, from `start` on.

    Browsers and pipes leave the sizes of segment and clusters unknown: their elements are then
    gone through. A cut between two of them shows only in the header's duration, if it has one.
    Raises AudioError(TRUNCATED) when an element is longer than the file.
    """
    stop, at, begin, found = size_of(file), start, start, False
    while at < stop:
        head = read_at(file, at, 16)
        name, size, length = _element(head)
        if name not in ELEMENTS:
            break
        if name == EBML and at > begin:
            yield _matroska(file, begin, at)
            begin = at
        if name == SEGMENT:
            found = True
        at += length
        # A segment's and a cluster's elements are gone through; one that is whole is passed over.
        if size is None or (name == SEGMENT and at + size > stop):
            if name not in (SEGMENT, CLUSTER):
                raise AudioError(TRUNCATED, "an element of unknown size")
            if size is not None:
                raise AudioError(TRUNCATED, f"{stop - at} of {size} bytes are there")
            continue
        at += size
        if at > stop:
            raise AudioError(TRUNCATED, "the last element is cut")
    if not found:
        raise AudioError(NOT_AUDIO, "a Matroska without a segment")
    check_rest(file, at, stop, audio=at - begin)
    yield _matroska(file, begin, at)


def _matroska(file: BinaryIO, start: int, stop: int) -> Part:
    return Part(file=view(file, start, stop), format="matroska", sndfile=False)


def _element(head: bytes) -> tuple[bytes, int | None, int]:
    """(id, size or None if unknown, bytes of both); an empty id if there is none."""
    width = 9 - head[0].bit_length() if head else 9
    if width > 4 or len(head) <= width:
        return b"", None, 0
    size_width = 9 - head[width].bit_length()
    if size_width > 8 or len(head) < width + size_width:
        return b"", None, 0
    bits = 7 * size_width
    size = int.from_bytes(head[width : width + size_width], "big") & (1 << bits) - 1
    return head[:width], None if size == (1 << bits) - 1 else size, width + size_width
