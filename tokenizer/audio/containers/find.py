"""Which container a file is, and its parts."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from tokenizer.audio.containers import boxes, flac, framed, headers, iff, mpeg, ogg, riff
from tokenizer.audio.containers.parts import Part, after_id3v2, read_at
from tokenizer.audio.reasons import NOT_AUDIO, AudioError

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


def find_parts(file: BinaryIO) -> Iterator[Part]:
    """The streams of audio that a file holds, in order; each is decoded before the next is asked
    for.

    file: seekable, binary. Raises AudioError: TRUNCATED, UNCLAIMED or UNCHECKED when the container
    says that not all is there, or cannot say; NOT_AUDIO when no container is known.
    """
    start = after_id3v2(file, 0)
    found = _reader(read_at(file, start, HEAD_BYTES))
    if found is None:
        start, found = _behind(read_at(file, start, SEARCHED + ogg.LARGEST_PAGE), start)
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


def _behind(head: bytes, start: int) -> tuple[int, Reader]:
    """What begins behind zeros, text or the rest of a frame. Raises AudioError(NOT_AUDIO)."""
    begun: list[tuple[int, Reader]] = [
        (_first_place(head, ogg.MAGIC, ogg.is_page), ogg.read_ogg),
        (_first_place(head, flac.MAGIC, flac.is_flac), flac.read_flac),
        (_first_place(head, b"\xff", framed.is_adts), framed.read_adts),
    ]
    found = [(place, reader) for place, reader in begun if place >= 0]
    if found:
        place, reader = min(found, key=lambda each: each[0])
        return start + place, reader
    if not head:
        raise AudioError(NOT_AUDIO, "an empty file")
    return 0, mpeg.read_mpeg


def _first_place(head: bytes, magic: bytes, begins: Callable[[bytes], bool]) -> int:
    """The first place where a stream begins; -1 if there is none."""
    place = -1
    while 0 <= (place := head.find(magic, place + 1)) < SEARCHED:
        if begins(head[place : place + ogg.LARGEST_PAGE]):
            return place
    return -1
