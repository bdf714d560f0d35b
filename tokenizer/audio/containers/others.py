"""Files of different kinds that were joined: the second must not be taken for a tag and dropped."""

import re
from typing import BinaryIO

from tokenizer.audio.containers.parts import BLOCK_BYTES, read_at, size_of
from tokenizer.audio.reasons import UNCLAIMED, AudioError

# How audio files begin, in at least five certain bytes: by chance one in 10^12 places looks so. An
# mp3 begins with the frame that has its count.
BEGINNINGS = re.compile(
    rb"(RIFF|RIFX|RF64)[\0-\xff]{4}WAVE"
    rb"|FORM[\0-\xff]{4}(AIF[FC]|8SVX)"
    rb"|fLaC[\0\x80]\0\0\x22"
    rb"|OggS\0[\0-\x07][\0-\xff]{8}"
    rb"|caff\0\x01\0\0desc"
    rb"|\0\0[\0-\x01][\0-\xff]ftyp[0-9A-Za-z ]{4}"
    rb"|\xff[\xe2-\xff][\0-\xff]{11,34}(Xing|Info)"
    rb"|\.snd\0\0[\0-\xff]{2}[\0-\xff]{4}\0\0\0[\1-\x1b]"
    rb"|\x1aE\xdf\xa3[\0-\xff]{1,40}(webm|matroska)"
    rb"|NIST_1A\n|Creative Voice File\x1a"
)
LONGEST = 64
# A part of each beginning, and how far behind its start that lies at most: a search for these alone
# takes a tenth of the time.
PARTS = {
    **dict.fromkeys((b"WAVE", b"AIFF", b"AIFC", b"8SVX"), 8),
    **dict.fromkeys((b"fLaC", b"OggS\0", b"caff\0\1", b"\x1aE\xdf\xa3", b".snd\0\0"), 0),
    **dict.fromkeys((b"NIST_1A\n", b"Creative Voice File"), 0),
    b"ftyp": 4,
    b"Xing": 36,
    b"Info": 36,
}


def check_no_other(file: BinaryIO, start: int) -> None:
    """Raises AudioError(UNCLAIMED) if a file of audio begins at byte `start` or later.

    start: where the streams end that the file's own container has, or shortly before.
    """
    for place in range(start, size_of(file), BLOCK_BYTES):
        block = read_at(file, place, BLOCK_BYTES + LONGEST)
        for part, before in PARTS.items():
            at = -1
            while (at := block.find(part, at + 1)) >= 0:
                first = max(0, at - before)
                match = BEGINNINGS.search(block, first, at + LONGEST)
                if match and match.start() <= at:
                    detail = f"another file of audio begins at byte {place + match.start()}"
                    raise AudioError(UNCLAIMED, detail)
