"""WAV in its forms: RIFF, RIFX, RF64, BW64 and Sony's Wave64.

A file of these is a list of chunks, each with its size. The samples are the chunk "data". What a
pipe or a recorder that died has written does not know that size: it is 0, or the largest there is.
The samples then reach to the end of the file, and get a new header.
"""

import struct
from collections.abc import Generator
from typing import BinaryIO

from tokenizer.audio.containers import mpeg
from tokenizer.audio.containers.others import check_rest, end_of_samples
from tokenizer.audio.containers.parts import (
    Chunk,
    Part,
    joined,
    one_after_another,
    read_at,
    size_of,
    view,
)
from tokenizer.audio.reasons import NOT_AUDIO, TRUNCATED, UNCHECKED, AudioError

RIFF_IDS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
W64_ID = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # of the GUIDs wave, fmt and data
# From here on a 32-bit size that the file does not have means "unknown".
UNKNOWN_SIZE = 0x7FFFF000
MPEG_TAGS = (0x50, 0x55)  # WAVE_FORMAT_MPEG, WAVE_FORMAT_MPEGLAYER3


@one_after_another
def read_wav(file: BinaryIO, start: int) -> Generator[Part, None, int | None]:
    """The parts of one or several joined WAV files, from `start` on.

    Raises AudioError(TRUNCATED) when a chunk is longer than the file; UNCLAIMED, when what lies
    behind the samples may be more of them; NOT_AUDIO, when there are none.
    """
    stop, wave64 = size_of(file), read_at(file, start, 16) == W64_ID
    order = ">" if read_at(file, start, 4) == b"RIFX" else "<"
    if not wave64 and read_at(file, start + 8, 4) != b"WAVE":
        raise AudioError(UNCHECKED, f"RIFF of kind {read_at(file, start + 8, 4)!r}")
    fmt, long_size = b"", 0
    at = start + (40 if wave64 else 12)
    while (chunk := read_chunk(file, at, wave64=wave64, order=order)) and chunk.name != b"data":
        if chunk.start + chunk.size > stop:
            raise AudioError(TRUNCATED, f"chunk {chunk.name!r} is cut")
        if chunk.name == b"fmt ":
            fmt = read_at(file, chunk.start, min(chunk.size, 1 << 16))
        elif chunk.name == b"ds64":
            long_size = int.from_bytes(read_at(file, chunk.start + 8, 8), "little")
        at = chunk.end
    if chunk is None or len(fmt) < 16:
        raise AudioError(NOT_AUDIO, "a WAV without a format or without data")
    size, known = _size(file, chunk, stop=stop, long_size=long_size, wave64=wave64, order=order)
    end, following = chunk.start + size, stop
    if known:
        following = _following(file, chunk, end=end, wave64=wave64, order=order)
    if _format_tag(fmt, order) in MPEG_TAGS:
        sound = joined(file, [(chunk.start, end)])
        yield from mpeg.read_mpeg(sound, 0)
    elif known:
        # libsndfile reads a Wave64 to the end of the file, whatever lies there.
        cut = stop if following == stop and not wave64 else end
        yield Part(file=view(file, start, cut), format="w64" if wave64 else "wav")
    else:
        following = end_of_samples(file, chunk.start, lambda place: _begins(file, place))
        end = min(end, following)
        sound = joined(file, [header(fmt, end - chunk.start, order=order), (chunk.start, end)])
        yield Part(file=sound, format="wav")
    return following if following < stop else None


def read_chunk(file: BinaryIO, at: int, *, wave64: bool, order: str) -> Chunk | None:
    """The chunk whose header is at byte `at`; None where there is none."""
    if wave64:
        head = read_at(file, at, 24)
        if len(head) < 24 or not _is_name(head[:4]):
            return None
        size = max(0, struct.unpack_from("<q", head, 16)[0] - 24)
        name = head[:4] if head[4:16] == W64_TAIL else b"----"
        end = at + 24 + (size + 7) // 8 * 8
        return Chunk(name=name, start=at + 24, size=size, end=end)
    head = read_at(file, at, 8)
    if len(head) < 8 or not _is_name(head[:4]):
        return None
    size = struct.unpack_from(order + "I", head, 4)[0]
    return Chunk(name=head[:4], start=at + 8, size=size, end=at + 8 + size + size % 2)


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _size(
    file: BinaryIO, chunk: Chunk, *, stop: int, long_size: int, wave64: bool, order: str
) -> tuple[int, bool]:
    """Bytes of samples that there are, and whether the header says so."""
    available, size = stop - chunk.start, chunk.size
    if not wave64 and size in (0, 0xFFFFFFFF) and long_size:
        size = long_size
    largest = 1 << 62 if size > 0xFFFFFFFF or wave64 else UNKNOWN_SIZE
    if not size:
        empty = _are_chunks(file, chunk.start, stop, wave64=wave64, order=order)
        return (0, True) if empty else (available, False)
    if size > available or size == 0xFFFFFFFF:
        if size < largest:
            raise AudioError(TRUNCATED, f"{available} of {size} bytes of samples are there")
        return available, False
    # A size over 4 GB is written modulo 2^32.
    wrapped = 0 if wave64 or long_size else (available - size) >> 32
    return size + (wrapped << 32), not wrapped


def _are_chunks(file: BinaryIO, at: int, stop: int, *, wave64: bool, order: str) -> bool:
    while at + 8 <= stop:
        chunk = read_chunk(file, at, wave64=wave64, order=order)
        if chunk is None or chunk.start + chunk.size > stop:
            return False
        at = chunk.end
    return True


def _following(file: BinaryIO, chunk: Chunk, *, end: int, wave64: bool, order: str) -> int:
    """Where another WAV begins behind the samples; the file's end where there is none."""
    stop, at = size_of(file), end
    if end == chunk.start + chunk.size and not _begins(file, end):
        at = chunk.end  # with padding, which not all joined files have
    while at < stop:
        if _begins(file, at):
            return at
        rest = read_chunk(file, at, wave64=wave64, order=order)
        if rest is None or rest.name == b"data" or rest.start + rest.size > stop:
            check_rest(file, at, stop, audio=end - chunk.start)
            return stop
        at = rest.end
    return stop


def _begins(file: BinaryIO, at: int) -> bool:
    head = read_at(file, at, 16)
    return head[:4] in RIFF_IDS or head == W64_ID


def _format_tag(fmt: bytes, order: str) -> int:
    tag = struct.unpack_from(order + "H", fmt)[0]
    # WAVE_FORMAT_EXTENSIBLE has the tag in the first two bytes of a GUID.
    return struct.unpack_from(order + "H", fmt, 24)[0] if tag == 0xFFFE and len(fmt) >= 26 else tag


def header(fmt: bytes, size: int, order: str) -> bytes:
    """A WAV's header for `size` bytes of samples, which follow it. fmt: its format chunk."""
    fmt_chunk = b"fmt " + struct.pack(order + "I", len(fmt)) + fmt + bytes(len(fmt) % 2)
    if size + len(fmt_chunk) + 12 < UNKNOWN_SIZE or order == ">":
        whole = struct.pack(order + "I", min(4 + len(fmt_chunk) + 8 + size, 0xFFFFFFFF))
        data = b"data" + struct.pack(order + "I", min(size, 0xFFFFFFFF))
        return (b"RIFX" if order == ">" else b"RIFF") + whole + b"WAVE" + fmt_chunk + data
    long = struct.pack("<4sIQQQI", b"ds64", 28, 4 + 36 + len(fmt_chunk) + 8 + size, size, 0, 0)
    unknown = b"\xff\xff\xff\xff"
    return b"RF64" + unknown + b"WAVE" + long + fmt_chunk + b"data" + unknown
