"""Files of different kinds that were joined: the second must not be taken for a tag and dropped."""

import re
from collections.abc import Callable
from typing import BinaryIO

from tokenizer.audio.containers.mpeg_headers import FRAMES_IN_A_ROW, LARGEST_FRAME, find_frames
from tokenizer.audio.containers.parts import (
    BLOCK_BYTES,
    UNCLAIMED_SHARE,
    is_padding,
    read_at,
    size_of,
)
from tokenizer.audio.reasons import UNCLAIMED, AudioError

# How audio files begin, in at least five certain bytes: by chance one in 10^12 places looks so. An
# mp3 begins with the frame that has its count, or is found by its frames.
BEGINNINGS = re.compile(
    rb"(RIFF|RIFX|RF64|BW64)[\0-\xff]{4}WAVE"
    rb"|riff\x2e\x91\xcf\x11"
    rb"|FORM[\0-\xff]{4}(AIF[FC]|8SVX|16SV)"
    rb"|fLaC[\0\x80]\0\0\x22"
    rb"|OggS\0[\0-\x07][\0-\xff]{8}"
    rb"|caff\0\x01\0\0desc"
    rb"|\0\0[\0-\x01][\0-\xff]ftyp[0-9A-Za-z ]{4}"
    rb"|\xff[\xe2-\xff][\0-\xff]{11,34}(Xing|Info)"
    rb"|\.snd\0\0[\0-\xff]{2}[\0-\xff]{4}\0\0\0[\1-\x1b]"
    rb"|\x1aE\xdf\xa3[\0-\xff]{1,40}(webm|matroska)"
    rb"|0&\xb2u\x8ef\xcf\x11"
    rb"|NIST_1A\n|Creative Voice File\x1a|#!AMR(-WB)?\n"
)
LONGEST = 64
# A part of each beginning, and how far behind its start that lies at most: a search for these alone
# takes a tenth of the time.
PARTS = {
    **dict.fromkeys((b"WAVE", b"AIFF", b"AIFC", b"8SVX", b"16SV"), 8),
    **dict.fromkeys((b"fLaC", b"OggS\0", b"caff\0\1", b"\x1aE\xdf\xa3", b".snd\0\0"), 0),
    **dict.fromkeys((b"NIST_1A\n", b"Creative Voice File", b"#!AMR"), 0),
    **dict.fromkeys((b"riff\x2e\x91", b"0&\xb2u\x8e"), 0),
    b"ftyp": 4,
    b"Xing": 36,
    b"Info": 36,
}
# So many frames in a row are no samples of 16 bits, which are less random than other bytes.
FRAMES_AMONG_SAMPLES = 6


def find_beginning(data: bytes, limit: int, frames: int = FRAMES_IN_A_ROW) -> int:
    """The first place, before `limit`, where a file of audio begins; -1 if none does.

    frames: how many in a row are taken for the beginning of a file.
    """
    first = find_frames(data, limit, frames)
    first = limit if first < 0 else first
    for part, before in PARTS.items():
        at = -1
        while (at := data.find(part, at + 1, first + LONGEST)) >= 0:
            match = BEGINNINGS.search(data, max(0, at - before), at + LONGEST)
            if match and match.start() <= at:
                first = min(first, match.start())
                break
    return first if first < limit else -1


def find_other(file: BinaryIO, start: int, *, samples: bool = False) -> int:
    """Where a file of audio begins, at byte `start` or later; -1 where none does.

    samples: whether uncompressed samples may lie there.
    """
    frames = FRAMES_AMONG_SAMPLES if samples else FRAMES_IN_A_ROW
    size = BLOCK_BYTES + frames * LARGEST_FRAME
    for place in range(start, size_of(file), BLOCK_BYTES):
        at = find_beginning(read_at(file, place, size), BLOCK_BYTES, frames)
        if at >= 0:
            return place + at
    return -1


def check_no_other(file: BinaryIO, start: int, *, samples: bool = False) -> None:
    """Raises AudioError(UNCLAIMED) if a file of audio begins at byte `start` or later.

    start: where the streams end that the file's own container has, or shortly before. samples: as
    in find_other.
    """
    place = find_other(file, start, samples=samples)
    if place >= 0:
        raise AudioError(UNCLAIMED, f"another file of audio begins at byte {place}")


def end_of_samples(file: BinaryIO, start: int, same: Callable[[int], bool]) -> int:
    """Where samples from byte `start` on end, of which no header says how many there are.

    That is the file's end, or where another file of the same kind begins. same: whether one begins
    at a place. Raises AudioError(UNCLAIMED) where one of another kind does.
    """
    place = find_other(file, start, samples=True)
    if place >= 0 and not same(place):
        raise AudioError(UNCLAIMED, f"another file of audio begins at byte {place}")
    return size_of(file) if place < 0 else place


def check_rest(file: BinaryIO, start: int, stop: int, audio: int) -> None:
    """Bytes [start, stop) lie behind `audio` bytes of audio that no header claims to be more.

    Raises AudioError(UNCLAIMED) if they could be more than a hundredth of the audio, or hold
    another file of audio.
    """
    if stop - start > UNCLAIMED_SHARE * audio and not is_padding(file, start, stop):
        detail = f"{stop - start} bytes behind the {audio} that the header claims may be audio"
        raise AudioError(UNCLAIMED, detail)
    check_no_other(file, start)
