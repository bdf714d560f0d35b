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


def check_no_other(file: BinaryIO, start: int) -> None:
    """Raises AudioError(UNCLAIMED) if a file of audio begins at byte `start` or later.

    start: where the streams end that the file's own container has, or shortly before.
    """
    for place in range(start, size_of(file), BLOCK_BYTES):
        match = BEGINNINGS.search(read_at(file, place, BLOCK_BYTES + LONGEST))
        if match:
            detail = f"another file of audio begins at byte {place + match.start()}"
            raise AudioError(UNCLAIMED, detail)
