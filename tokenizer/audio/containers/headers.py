"""Containers of one header and the samples behind it: AU, NIST SPHERE and Creative's VOC.

libsndfile takes what there is: less than the header says, and what lies behind it.
"""

import re
import struct
from collections.abc import Generator
from typing import BinaryIO

from tokenizer.audio.containers.others import check_rest, end_of_samples
from tokenizer.audio.containers.parts import Part, one_after_another, read_at, size_of, view
from tokenizer.audio.reasons import NOT_AUDIO, TRUNCATED, UNCHECKED, AudioError

AU_MAGIC = (b".snd", b"dns.")
AU_UNKNOWN = 0xFFFFFFFF
NIST_MAGIC = b"NIST_1A"
VOC_MAGIC = b"Creative Voice File\x1a"
VOC_SOUND = (1, 9)  # block types with a header of their own; the others go on, repeat or pause


@one_after_another
def read_au(file: BinaryIO, start: int) -> Generator[Part, None, int | None]:
    """The parts of one or several joined AU files, from `start` on.

    Raises AudioError(TRUNCATED) when there are fewer bytes than the header says, and UNCLAIMED when
    there may be more.
    """
    head, stop = read_at(file, start, 12), size_of(file)
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 12:
        raise AudioError(TRUNCATED, "the header is cut")
    offset, size = struct.unpack_from(order + "II", head, 4)
    begin = start + offset
    available = stop - begin
    if size == AU_UNKNOWN or (size == 0 and available > 0):
        end = end_of_samples(file, begin, lambda place: read_at(file, place, 4) in AU_MAGIC)
        patches = {start + 8: struct.pack(order + "I", min(max(end - begin, 0), AU_UNKNOWN - 1))}
        yield Part(file=view(file, start, end, patches=patches), format="au")
        return end if end < stop else None
    if size > available:
        raise AudioError(TRUNCATED, f"{max(available, 0)} of {size} bytes of samples are there")
    end = begin + size
    joined = read_at(file, end, 4) in AU_MAGIC
    if not joined:
        check_rest(file, end, stop, audio=size)
    yield Part(file=view(file, start, end), format="au")
    return end if joined else None


@one_after_another
def read_nist(file: BinaryIO, start: int) -> Generator[Part, None, int | None]:
    """The parts of one or several joined NIST files, from `start` on. Raises as read_au does."""
    head, stop = read_at(file, start, 16), size_of(file)
    try:
        length = int(head[8:16])
    except ValueError as error:
        raise AudioError(NOT_AUDIO, "a NIST header without its size") from error
    fields = dict(re.findall(rb"^(\w+) -\w+ (\S+)", read_at(file, start, length), re.MULTILINE))
    try:
        samples, channels, width = (
            int(fields.get(name, default))
            for name, default in (
                (b"sample_count", 0),
                (b"channel_count", 1),
                (b"sample_n_bytes", 2),
            )
        )
    except ValueError as error:
        raise AudioError(NOT_AUDIO, "a NIST header with a number that is none") from error
    begin = start + length
    size = samples * channels * width
    if length < 16 or size < 0:
        raise AudioError(NOT_AUDIO, "a NIST header with a size that is none")
    if not samples:
        raise AudioError(UNCHECKED, "the NIST header does not say how many samples there are")
    if b"," in fields.get(b"sample_coding", b"pcm"):  # pcm,embedded-shorten-v2.00
        raise AudioError(NOT_AUDIO, "a compressed NIST; decompress it with w_decode or sph2pipe")
    if begin + size > stop:
        raise AudioError(TRUNCATED, f"{stop - begin} of {size} bytes of samples are there")
    joined = read_at(file, begin + size, 7) == NIST_MAGIC
    if not joined:
        check_rest(file, begin + size, stop, audio=size)
    yield Part(file=view(file, start, begin + size), format="nistsphere")
    return begin + size if joined else None


@one_after_another
def read_voc(file: BinaryIO, start: int) -> Generator[Part, None, int | None]:
    """The parts of one or several joined VOC files, from `start` on.

    libsndfile reads the first block of samples, FFmpeg all of them. Raises as read_au does.
    """
    head, stop = read_at(file, start, 26), size_of(file)
    if len(head) < 26:
        raise AudioError(TRUNCATED, "the header is cut")
    at = start + struct.unpack_from("<H", head, 20)[0]
    kinds, size, ended = [], 0, False
    while at < stop and not ended:
        block = read_at(file, at, 4)
        if block[0] == 0:
            ended, at = True, at + 1
            continue
        if block[0] > 9:
            break
        length = int.from_bytes(block[1:4], "little")
        if len(block) < 4 or at + 4 + length > stop:
            raise AudioError(TRUNCATED, "a block of samples is cut")
        kinds.append(block[0])
        size += length
        at += 4 + length
    joined = read_at(file, at, len(VOC_MAGIC)) == VOC_MAGIC
    if not joined:
        check_rest(file, at, stop, audio=size)
    simple = sum(kind in VOC_SOUND for kind in kinds) == 1 and not {2, 3, 6, 7} & set(kinds)
    yield Part(file=view(file, start, at), format="voc", sndfile=simple)
    return at if joined else None
