"""AAC in ADTS, and AMR: frames that each say how long they are, and nothing else.

A file that is cut between two frames cannot be told from a whole one.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from tokenizer.audio.containers.mpeg_headers import LARGEST_FRAME, adts_size
from tokenizer.audio.containers.others import check_rest
from tokenizer.audio.containers.parts import (
    BLOCK_BYTES,
    Part,
    after_id3v2,
    joined,
    read_at,
    size_of,
)
from tokenizer.audio.reasons import NOT_AUDIO, TRUNCATED, AudioError

AMR_MAGIC = {b"#!AMR\n": b"\x0c\x0d\x0f\x11\x13\x14\x1a\x1f\x05\x06\x05\x05\x00\x00\x00\x00"}
AMR_MAGIC[b"#!AMR-WB\n"] = b"\x11\x17\x20\x24\x28\x2e\x32\x3a\x3c\x05\x05\x00\x00\x00\x00\x00"
ADTS_SAMPLES = 1024  # of a frame at least
AMR_SAMPLES = 160


def is_adts(data: bytes) -> bool:
    """Whether three ADTS frames begin here, or as many as there are in `data`."""
    at = 0
    for _ in range(3):
        size = adts_size(data[at : at + 7])
        if not size:
            return False
        at += size
        if at == len(data):
            return True
    return at < len(data)


def read_adts(file: BinaryIO, start: int) -> Iterator[Part]:
    """The part of an ADTS stream: joined ones are one stream.

    Raises AudioError(TRUNCATED) when the last frame is cut, and UNCLAIMED when more may follow.
    """
    runs: list[bytes | tuple[int, int]] = []
    stop, at, count = size_of(file), after_id3v2(file, start), 0
    while at < stop:
        run = at
        at, number = _follow(file, at, adts_size)
        if not number:
            break
        runs.append((run, at))
        count += number
        at = after_id3v2(file, at)
    audio = sum(run[1] - run[0] for run in runs)
    if not count:
        raise AudioError(NOT_AUDIO, "no ADTS frames")
    check_rest(file, at, stop, audio=audio)
    yield Part(
        file=joined(file, runs),
        format="aac",
        sndfile=False,
        least_samples=max(0, count - 2) * ADTS_SAMPLES,
    )


def read_amr(file: BinaryIO, start: int) -> Iterator[Part]:
    """The part of an AMR file. Raises as read_adts does."""
    magic = next(magic for magic in AMR_MAGIC if read_at(file, start, len(magic)) == magic)
    sizes, begin = AMR_MAGIC[magic], start + len(magic)

    def size(data: bytes) -> int:
        return sizes[data[0] >> 3 & 15] + 1 if data and not data[0] & 0x83 else 0

    end, count = _follow(file, begin, size)
    check_rest(file, end, size_of(file), audio=end - begin)
    yield Part(
        file=joined(file, [(start, end)]),
        format="amr",
        sndfile=False,
        least_samples=max(0, count - 2) * AMR_SAMPLES,
    )


def _follow(file: BinaryIO, at: int, size: Callable[[bytes], int]) -> tuple[int, int]:
    """(where frames stop following each other, how many did). Raises AudioError(TRUNCATED)."""
    stop, base, data, count = size_of(file), at, b"", 0
    while at < stop:
        if at + LARGEST_FRAME > base + len(data) and base + len(data) < stop:
            base, data = at, read_at(file, at, BLOCK_BYTES)
        elif not data:
            data = read_at(file, at, BLOCK_BYTES)
        frame = size(data[at - base : at - base + 8])
        if not frame:
            if stop - at < 7 and data[at - base :][:1] == b"\xff":
                raise AudioError(TRUNCATED, "the last frame is cut")
            break
        if at + frame > stop:
            raise AudioError(TRUNCATED, "the last frame is cut")
        at += frame
        count += 1
    return at, count
