"""Joined files of different kinds: the second is not taken for a tag and dropped."""

import io

import numpy as np
import pytest
import soundfile

from tokenizer.audio import reasons
from tokenizer.audio.decoding import AudioError, read_utterance

RATE = 16_000
KINDS = {"FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}
KINDS |= dict.fromkeys(("WAV", "AIFF", "AU", "CAF"), "PCM_16")


def encoded(form: str, seconds: float) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE)) * 0.1
    soundfile.write(file, noise, RATE, format=form, subtype=KINDS[form])
    return file.getvalue()


@pytest.mark.parametrize("first", KINDS)
def test_joined_files_of_different_kinds_are_refused(first):
    for second in KINDS.keys() - {first}:
        with pytest.raises(AudioError) as refused:
            read_utterance(io.BytesIO(encoded(first, 1) + encoded(second, 2)), 10**9)
        assert refused.value.reason in (reasons.UNCLAIMED, reasons.TRUNCATED), second
