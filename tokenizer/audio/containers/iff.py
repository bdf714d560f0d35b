"""Containers in the manner of IFF: AIFF and AIFF-C, Amiga's 8SVX and 16SV, Apple's CAF.

Like WAV they are lists of chunks, with big-endian sizes. libsndfile takes a chunk that is cut for a
shorter one.
"""

import struct
from collections.abc import Generator, Iterator
from typing import BinaryIO

from tokenizer.audio.containers.others import check_no_other, check_rest
from tokenizer.audio.containers.parts import (
    Chunk,
    Part,
    one_after_another,
    read_at,
    size_of,
    view,
)
from tokenizer.audio.reasons import NOT_AUDIO, TRUNCATED, UNCHECKED, UNCLAIMED, AudioError

FORMS = {b"AIFF": b"SSND", b"AIFC": b"SSND", b"8SVX": b"BODY", b"16SV": b"BODY"}
# Bits of a sample in AIFF-C's uncompressed encodings; None: those that the header says.
PCM = {b"NONE": None, b"twos": None, b"sowt": None, b"raw ": 8, b"in24": 24, b"in32": 32}
PCM |= {b"fl32": 32, b"FL32": 32, b"fl64": 64, b"FL64": 64}
PCM |= dict.fromkeys((b"alaw", b"ALAW", b"ulaw", b"ULAW"), 8)
UNKNOWN_SIZE = 0x7FFFF000  # as in WAV
CAF_MAGIC, CAF_HEADER = b"caff", 8


@one_after_another
def read_form(file: BinaryIO, start: int) -> Generator[Part, None, int | None]:
    """The parts of one or several joined AIFF or SVX files, from `start` on.

    Raises AudioError(TRUNCATED) when the samples are fewer than their chunk's or the header's size;
    UNCLAIMED, when they may be more; NOT_AUDIO, when there are none.
    """
    kind, stop = read_at(file, start + 8, 4), size_of(file)
    if kind not in FORMS:
        raise AudioError(UNCHECKED, f"an IFF of kind {kind!r}")
    common, sound, end = None, None, stop
    for chunk in _chunks(file, start + 12, stop):
        if chunk.name == b"FORM":
            end = chunk.start - 8
            break
        if chunk.start + chunk.size > stop and chunk.name != FORMS[kind]:
            if sound:
                end = chunk.start - 8
                break
            raise AudioError(TRUNCATED, f"chunk {chunk.name!r} is cut")
        if chunk.name == FORMS[kind]:
            sound = chunk
            if chunk.size in (0, 8) and not _is_chunk(file, chunk.end, stop):
                break
        if chunk.name == b"COMM":
            common = chunk
        end = min(chunk.end, stop)
    if sound is None or (common is None and kind in (b"AIFF", b"AIFC")):
        raise AudioError(NOT_AUDIO, "an IFF without a header or without samples")
    available = stop - sound.start
    empty = sound.size in (0, 8) and available > sound.size and not _is_chunk(file, sound.end, stop)
    if empty or (sound.size > available and sound.size >= UNKNOWN_SIZE):
        check_no_other(file, sound.start, samples=True)
        yield Part(file=_mended(file, start, sound=sound, common=common, stop=stop), format="aiff")
        return None
    if sound.size > available:
        raise AudioError(TRUNCATED, f"{available} of {sound.size} bytes of samples are there")
    least = 0
    if common:
        bits, frame_bytes, frames = _frame(file, common)
        least = frames if bits else 0
        there = (sound.size - 8) // frame_bytes if bits else 0
        if there < least:
            raise AudioError(TRUNCATED, f"{there} of {least} samples are there")
    joined = end < stop and read_at(file, end, 4) == b"FORM"
    if not joined:
        check_rest(file, end, stop, audio=sound.size)
    # libsndfile reads an SVX to the end of the file, whatever lies there.
    cut = end if joined or kind in (b"8SVX", b"16SV") else stop
    cut = min(cut, sound.start + sound.size) if kind in (b"8SVX", b"16SV") else cut
    yield Part(file=view(file, start, cut), format="aiff", least_samples=least)
    return end if joined else None


def _chunks(file: BinaryIO, at: int, stop: int) -> Iterator[Chunk]:
    while at + 8 <= stop:
        name, size = struct.unpack(">4sI", read_at(file, at, 8))
        if not all(32 <= byte < 127 for byte in name):
            return
        chunk = Chunk(name=name, start=at + 8, size=size, end=at + 8 + size + size % 2)
        yield chunk
        at = chunk.end


def _is_chunk(file: BinaryIO, at: int, stop: int) -> bool:
    """Whether byte `at` is the file's end, or where a whole chunk begins."""
    chunk = next(_chunks(file, at, stop), None)
    return at >= stop or (chunk is not None and chunk.start + chunk.size <= stop)


def _frame(file: BinaryIO, common: Chunk) -> tuple[int | None, int, int]:
    """(bits of a sample or None if compressed, bytes of all channels' sample, samples)."""
    head = read_at(file, common.start, common.size)
    if len(head) < 18:
        raise AudioError(NOT_AUDIO, "an AIFF whose header is too short")
    channels, frames, bits = struct.unpack_from(">hIh", head)
    encoding = head[18:22] or b"NONE"
    if encoding not in PCM:
        return None, 0, frames
    bits = PCM[encoding] or bits
    return bits, max(1, channels) * max(1, (bits + 7) // 8), frames


def _mended(
    file: BinaryIO, start: int, *, sound: Chunk, common: Chunk | None, stop: int
) -> BinaryIO:
    """An AIFF whose sizes were never written, with those of the samples that are there."""
    bits, frame_bytes, _ = _frame(file, common) if common else (None, 0, 0)
    if common is None or bits is None:
        raise AudioError(UNCLAIMED, "the header does not say how many samples there are")
    size = stop - sound.start
    patches = {
        start + 4: struct.pack(">I", min(stop - start - 8, 0xFFFFFFFF)),
        common.start + 2: struct.pack(">I", (size - 8) // frame_bytes),
        sound.start - 4: struct.pack(">I", min(size, 0xFFFFFFFF)),
    }
    return view(file, start, stop, patches=patches)


@one_after_another
def read_caf(file: BinaryIO, start: int) -> Generator[Part, None, int | None]:
    """The parts of one or several joined CAF files, from `start` on.

    Raises AudioError as read_form does.
    """
    stop, at, sound, packets = size_of(file), start + CAF_HEADER, None, 0
    end = at
    while at + 12 <= stop:
        name, size = struct.unpack(">4sq", read_at(file, at, 12))
        if name == CAF_MAGIC or not all(32 <= byte < 127 for byte in name):
            break
        begin = at + 12
        if name == b"data":
            sound = Chunk(name=name, start=begin, size=size, end=begin + size)
            if size == -1 or (size == 0 and stop > begin):
                break
        if begin + size > stop or size < 0:
            if sound is None or name == b"data":
                raise AudioError(TRUNCATED, f"chunk {name!r} is cut")
            break
        if name == b"pakt":
            packets = int.from_bytes(read_at(file, begin + 8, 8), "big")  # valid samples
        at = end = begin + size
    if sound is None:
        raise AudioError(NOT_AUDIO, "a CAF without samples")
    if sound.size in (-1, 0):
        check_no_other(file, sound.start, samples=True)
        patches = {sound.start - 8: struct.pack(">q", stop - sound.start)}
        yield Part(file=view(file, start, stop, patches=patches), format="caf")
        return None
    joined = read_at(file, end, 4) == CAF_MAGIC
    if not joined:
        check_rest(file, end, stop, audio=sound.size)
    cut = end if joined else stop
    yield Part(file=view(file, start, cut), format="caf", least_samples=packets)
    return end if joined else None
