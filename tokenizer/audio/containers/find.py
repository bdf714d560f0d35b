"""Which container a file is, and its parts."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from tokenizer.audio.containers import boxes, flac, framed, headers, iff, mpeg, ogg, riff
from tokenizer.audio.containers.others import find_beginning
from tokenizer.audio.containers.parts import (
    TEXT,
    UNCLAIMED_SHARE,
    Part,
    after_id3v2,
    read_at,
    size_of,
)
from tokenizer.audio.reasons import NOT_AUDIO, TRUNCATED, UNCLAIMED, AudioError

# Of files whose audio is decoded here, some by PyAV: of sound, and of video.
SOUND_ENDINGS = (
    *("flac", "wav", "ogg", "opus", "mp3", "oga", "aif", "aiff", "aifc", "au", "snd", "caf", "w64"),
    *("rf64", "sph", "voc", "8svx", "mp2", "m4a", "m4b", "aac", "weba", "mka", "wma", "amr"),
)
VIDEO_ENDINGS = ("mp4", "mov", "webm", "mkv", "3gp")
# Where a stream may begin behind something else.
SEARCHED = 1 << 16
# What shows where a container begins: three of the longest MPEG or ADTS frames.
HEAD_BYTES = 3 << 13
Reader = Callable[[BinaryIO, int], Iterator[Part]]
# Streams that are cut out of longer ones, and then begin behind the rest of a frame or page.
IN_MIDSTREAM: tuple[Reader, ...] = (flac.read_flac, ogg.read_ogg, framed.read_adts)


def find_parts(file: BinaryIO) -> Iterator[Part]:
    """The streams of audio that a file holds, in order; each is decoded before the next is asked
    for.

    file: seekable, binary. Raises AudioError: TRUNCATED, UNCLAIMED or UNCHECKED when the container
    says that not all is there, or cannot say; NOT_AUDIO when no container is known.
    """
    start = after_id3v2(file, 0)
    found = _reader(read_at(file, start, HEAD_BYTES))
    if found is None:
        head = read_at(file, start, SEARCHED + ogg.LARGEST_PAGE)
        start, found = _behind(head, start, size_of(file))
    return found(file, start)


def _reader(head: bytes) -> Reader | None:
    """The reader of the container that begins here."""
    if flac.is_flac(head):
        return flac.read_flac
    if head[:4] in riff.RIFF_IDS or head[:16] == riff.W64_ID:
        return riff.read_wav
    if head[:4] == ogg.MAGIC:
        return ogg.read_ogg
    if head[:4] == b"FORM":
        return iff.read_form
    if head[:4] == b"caff":
        return iff.read_caf
    if head[:4] in headers.AU_MAGIC:
        return headers.read_au
    if head.startswith(headers.NIST_MAGIC):
        return headers.read_nist
    if head.startswith(headers.VOC_MAGIC):
        return headers.read_voc
    if head[4:8] in boxes.MP4_FIRST:
        return boxes.read_mp4
    if head.startswith(boxes.EBML):
        return boxes.read_matroska
    if head.startswith(boxes.ASF_HEADER):
        return boxes.read_asf
    if head.startswith(tuple(framed.AMR_MAGIC)):
        return framed.read_amr
    if mpeg.is_mpeg(head):
        return mpeg.read_mpeg
    if framed.is_adts(head):
        return framed.read_adts
    return None


def _behind(head: bytes, start: int, size: int) -> tuple[int, Reader]:
    """What begins behind zeros, text or the rest of a frame. size: of the file.

    Raises AudioError: NOT_AUDIO for an empty file; TRUNCATED when the rest of another FLAC lies
    before one; UNCLAIMED when what lies before a container that does not begin in mid-stream may be
    audio.
    """
    if not head:
        raise AudioError(NOT_AUDIO, "an empty file")
    place = find_beginning(head, SEARCHED)
    while place >= 0 and head[place : place + 4] == ogg.MAGIC and not ogg.is_page(head[place:]):
        found = find_beginning(head[place + 1 :], SEARCHED - place - 1)
        place = found if found < 0 else place + 1 + found
    reader = _reader(head[place : place + HEAD_BYTES]) if place >= 0 else None
    if reader is None or reader is mpeg.read_mpeg:
        return 0, mpeg.read_mpeg  # which passes over more
    if reader is flac.read_flac and flac.holds_frames(head[:place]):
        raise AudioError(TRUNCATED, "FLAC frames lie before the FLAC's header")
    if reader not in IN_MIDSTREAM and place > UNCLAIMED_SHARE * size:
        before = head[:place].strip(b"\0").translate(None, TEXT)
        if before:
            detail = f"{place} bytes before the first header may be audio"
            raise AudioError(UNCLAIMED, detail)
    return start + place, reader
