"""Joined files of different kinds: the second is not taken for a tag or for padding and dropped."""

import io
import warnings

import numpy as np
import pytest
from faults.containers import FFMPEG, RATE, forms

from tokenizer.audio import reasons
from tokenizer.audio.decoding import AudioError, read_utterance

# Kinds that begin differently; the others differ from one of these in their encoding alone.
SECONDS = (
    *("flac", "wav", "rf64", "w64", "aiff", "svx", "caf", "au", "nist", "voc", "vorbis", "mp3"),
    *("mp3 without a tag", "mp2", "aac", "webm", "m4a", "wma"),
)
ID3V2 = b"ID3\4\0\0\0\0\1\0" + bytes(128)


def made(seconds: float, seed: int) -> dict[str, bytes]:
    """{kind: a file} of noise that is loud and soft."""
    n = round(seconds * RATE)
    noise = np.random.default_rng(seed).standard_normal(n) * 0.1 * np.sin(np.arange(n) / RATE) ** 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = {name: data for name, data, _ in forms(noise.astype(np.float32))}
    files["mp3 behind ID3v2"] = ID3V2 + files["mp3 without a tag"]
    return files


def outcome(data: bytes) -> tuple[str, float]:
    """(reason or "ok", seconds decoded)."""
    try:
        return "ok", read_utterance(io.BytesIO(data), 10**9).duration_s
    except AudioError as error:
        return error.reason, 0.0


def test_of_two_joined_files_none_is_lost():
    firsts, seconds = made(0.4, 0), made(0.6, 1)
    alone = [
        {kind: outcome(data)[1] for kind, data in files.items()} for files in (firsts, seconds)
    ]
    lost = []
    for first, data in firsts.items():
        # Without FFmpeg some cannot be written.
        for second in seconds.keys() & {*SECONDS, "mp3 behind ID3v2"}:
            reason, found = outcome(data + seconds[second])
            if reason == "ok" and found < 0.98 * (alone[0][first] + alone[1][second]):
                lost.append(f"{first} + {second}: {found:.2f} s")
    assert not lost, "\n".join(lost)


@pytest.mark.parametrize("junk", [bytes(5000), b"HTTP/1.1 200 OK\r\n\r\n"])
def test_behind_zeros_or_text_a_file_is_what_it_is(junk):
    for kind, data in made(0.5, 0).items():
        assert outcome(junk + data) == outcome(data), kind
        if kind in FFMPEG:
            assert outcome(junk + data[: len(data) // 2])[0] == outcome(data[: len(data) // 2])[0]


def test_what_may_be_sound_before_a_header_is_told():
    files = made(0.5, 0)
    noise = np.random.default_rng(0).bytes(3000)
    for kind in ("wav", "aiff", "au", "caf"):
        assert outcome(noise + files[kind]) == (reasons.UNCLAIMED, 0.0), kind
        assert outcome(noise[:5] + files[kind]) == outcome(files[kind]), kind
    whole = made(3.0, 1)["flac"]
    assert outcome(whole[len(whole) // 2 :] + whole) == (reasons.TRUNCATED, 0.0)
