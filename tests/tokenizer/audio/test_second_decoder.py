"""What libsndfile does not decode is decoded by PyAV, or the reason names the package.

FFmpeg's encoders in PyAV write the files.
"""

import sys

import numpy as np
import pytest
from audio_bytes import read, reason

from tokenizer.audio import reasons
from tokenizer.audio.decoding import AudioError

RATE = 16_000


def hiss(seconds, seed=0):
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (0.1 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def media():
    """(a file of 2 s, one of 1 s) by name, as FFmpeg writes them."""
    pytest.importorskip("av")
    from faults.containers import FFMPEG, muxed

    def both(name):
        muxer, encoder, options, _ = FFMPEG[name]
        return [muxed(hiss(s, s), muxer, encoder=encoder, options=options) for s in (2, 1)]

    return {name: both(name) for name in FFMPEG}


@pytest.mark.parametrize(
    "name", ["m4a", "mov", "mp4 in fragments", "webm", "webm live", "flac in mkv", "aac", "wma"]
)
def test_the_second_decoder(media, name):
    data, other = media[name]
    wave = read(data).waveform
    # Without a container that says how much, an encoder's first samples are decoded too.
    assert len(wave) / RATE == pytest.approx(2.0, abs=0.15)
    if name in ("mov", "flac in mkv"):  # lossless
        np.testing.assert_allclose(wave, hiss(2, 2), atol=1e-4)
    for share in (0.2, 0.5, 0.9):
        assert reason(data[: int(share * len(data))]) == reasons.TRUNCATED, share
    assert np.array_equal(read(data + b"\n").waveform, wave)
    assert len(read(data + other).waveform) / RATE == pytest.approx(3.0, abs=0.3)


def test_without_the_second_decoder_the_reason_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    mp4 = b"\0\0\0\x10ftypM4A \0\0\0\0" + b"\0\0\0\x08moov" + b"\0\0\1\0mdat" + bytes(248)
    webm = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x84" + b"\xec\x82\0\0"
    for data in (mp4, webm):
        with pytest.raises(AudioError, match=r"pip install 'wavmill\[media\]'") as caught:
            read(data)
        assert caught.value.reason == reasons.NEEDS_AV
        # What is cut is known to be cut without it.
        assert reason(data[:-1]) == reasons.TRUNCATED
