"""Of every container all of the sound is decoded, or it is refused with the reason why not.

Files are written with soundfile and changed byte by byte; Ogg pages are made here.
"""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from audio_bytes import read, reason

from tokenizer.audio import reasons
from tokenizer.audio.containers.parts import Pieces
from tokenizer.audio.decoding import read_utterance
from tokenizer.audio.windows import Windowing

RATE = 16_000
CUT_SILENTLY = ("RF64", "W64", "AIFF", "AU", "NIST", "VOC", "SVX", "CAF", "WAV", "WAVEX")


def hiss(seconds=2.0, seed=0):
    """Noise that is loud and soft, so that frames of variable bit rate differ in size."""
    n = round(seconds * RATE)
    loud = np.sin(np.arange(n) / RATE) ** 2
    return (0.2 * loud * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def encoded(signal, form="WAV", subtype="PCM_16", rate=RATE):
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, 1 if signal.ndim == 1 else signal.shape[1], subtype, format=form
    ) as sound:
        for start in range(0, len(signal), RATE):
            sound.write(signal[start : start + RATE])
    return file.getvalue()


def mp3(seconds=2.0, seed=0, rate=RATE):
    return encoded(hiss(seconds, seed), "MP3", "MPEG_LAYER_III", rate)


def untagged(data):
    """An mp3 without its first frame, which has the number of frames."""
    return data[data.index(data[:2], 4) :]


def same(data, *expected):
    """Whether a file has just the sound of these files, in order."""
    waves = np.concatenate([read(each).waveform for each in expected])
    return np.array_equal(read(data).waveform, waves)


def stale(data, place, value, order="<"):
    """The file with another 32-bit number at a place."""
    return data[:place] + struct.pack(order + "I", value) + data[place + 4 :]


@pytest.mark.parametrize("form", CUT_SILENTLY)
def test_what_libsndfile_shortens_is_truncated(form):
    data = encoded(hiss(), form)
    assert reason(data) is None
    for share in (0.3, 0.5, 0.9, 0.999):
        assert reason(data[: int(share * len(data))]) == reasons.TRUNCATED, share


@pytest.mark.parametrize("form", CUT_SILENTLY)
def test_what_lies_behind_the_samples_is_no_sound(form):
    data = encoded(hiss(), form)
    for tail in (b"\n", bytes(700), b"TAG".ljust(128, b"\0"), b"a line of text\n" * 30):
        assert same(data + tail, data), tail[:10]
    # As much as this may be sound that the header does not count.
    assert reason(data + np.random.default_rng(0).bytes(5000)) == reasons.UNCLAIMED


@pytest.mark.parametrize(
    "form", ["FLAC", "MP3", "OGG", "WAV", "RF64", "W64", "AIFF", "AU", "NIST", "VOC", "SVX", "CAF"]
)
def test_joined_files_are_decoded_one_after_the_other(form):
    subtype = {"MP3": "MPEG_LAYER_III", "OGG": "VORBIS"}.get(form, "PCM_16")
    first, second = (encoded(hiss(s, s), form, subtype) for s in (1, 2))
    assert same(first + second, first, second)
    assert same(first + first, first, first)


@pytest.mark.parametrize("form", ["WAV", "AU"])
def test_more_joined_files_than_python_calls_within_calls(form):
    one = encoded(np.zeros(40, np.float32), form)
    assert read(1100 * one).samples == 1100 * 40


def test_a_chain_of_ogg_streams():
    vorbis, opus = encoded(hiss(1), "OGG", "VORBIS"), encoded(hiss(2, 1), "OGG", "OPUS")
    assert same(vorbis + opus + vorbis, vorbis, opus, vorbis)
    # The rate of the whole is that of the first stream.
    wide = encoded(hiss(3, 2), "OGG", "VORBIS", 24_000)
    assert read(vorbis + wide).duration_s == pytest.approx(3.0, abs=1e-3)
    assert reason(vorbis + opus[:-100]) == reasons.TRUNCATED
    assert reason(vorbis[:-100] + opus) == reasons.TRUNCATED
    # A page in the middle is damaged, or missing.
    pages = [at for at in range(len(opus)) if opus[at : at + 4] == b"OggS"]
    assert len(pages) > 3
    damaged = bytearray(opus)
    damaged[pages[-2] + 60] ^= 0x55
    assert reason(bytes(damaged)) == reasons.TRUNCATED
    assert reason(opus[: pages[-2]] + opus[pages[-1] :]) == reasons.TRUNCATED


@pytest.mark.parametrize("count", [0, 5, "one less", "none"])
def test_an_mp3_whose_tag_counts_too_few_frames(count):
    data = mp3(3)
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    frames = struct.unpack(">I", data[tag + 8 : tag + 12])[0]
    if count == "none":
        changed = stale(data, tag + 4, struct.unpack(">I", data[tag + 4 : tag + 8])[0] & ~1, ">")
    else:
        changed = stale(data, tag + 8, frames - 1 if count == "one less" else count, ">")
    samples = read(changed).samples
    assert abs(samples - read(data).samples) < 3000  # without the tag's trimming
    assert reason(stale(data, tag + 8, frames + 20, ">")) == reasons.TRUNCATED


def test_an_mp3_of_which_another_part_follows():
    data = mp3(3)
    assert read(data + untagged(mp3(2, 1))).duration_s == pytest.approx(5.0, abs=0.1)
    # Joined mp3s of two rates; each begins with its own ID3 tag.
    tag = b"ID3\4\0\0\0\0\0\x16" + bytes(22)
    both = read(tag + data + tag + mp3(2, 1, 24_000) + b"TAG".ljust(128, b"\0"))
    assert both.duration_s == pytest.approx(3 + 2 * RATE / 24_000, abs=0.01)


def test_an_mp3_behind_something_else():
    data, plain = mp3(), untagged(mp3())
    for before in (bytes(5000), b"HTTP/1.0 200 OK\r\n\r\n", np.random.default_rng(1).bytes(3000)):
        assert same(before + data, data)
        assert same(before + plain, plain)
    # From the middle of a frame on.
    assert read(plain[50:]).duration_s == pytest.approx(2.0, abs=0.15)
    assert reason(bytes(1 << 18) + plain) == reasons.TRUNCATED  # as a hole in a download
    # A hole.
    assert reason(plain[:3000] + bytes(1000) + plain[4000:]) == reasons.TRUNCATED
    assert reason(plain[:-1000] + bytes(1000)) == reasons.UNCLAIMED


def test_mp3_in_a_wav():
    data = mp3()
    fmt = struct.pack("<HHIIHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 288, 1)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data))
    wav = b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(data)) + b"WAVE" + chunks + data
    assert same(wav, data)
    assert reason(wav[: len(wav) // 2]) == reasons.TRUNCATED


def test_a_recorder_or_pipe_that_died_leaves_no_size():
    sound = hiss()
    wav, rf64 = encoded(sound), encoded(sound, "RF64")
    at = wav.index(b"data") + 4
    for size in (0, 0xFFFFFFFF):
        assert same(stale(wav, at, size), wav)
    assert same(rf64[:20] + bytes(24) + rf64[44:], wav)
    au = encoded(sound, "AU")
    assert same(stale(au, 8, 0xFFFFFFFF, ">"), au) and same(stale(au, 8, 0, ">"), au)
    aiff = encoded(sound, "AIFF")
    comm, ssnd = aiff.index(b"COMM"), aiff.index(b"SSND")
    assert same(stale(stale(aiff, ssnd + 4, 0, ">"), comm + 10, 0, ">"), aiff)
    caf = encoded(sound, "CAF")
    data = caf.index(b"data") + 4
    assert same(caf[:data] + b"\xff" * 8 + caf[data + 8 :], caf)
    # A size that was written while more was to come.
    assert reason(stale(wav, at, 20_000)) == reasons.UNCLAIMED


def test_a_flac_with_something_around_it():
    data = encoded(hiss(), "FLAC")
    tails = (b"\n", bytes(5000), b"TAG".ljust(128, b"\0"), np.random.default_rng(2).bytes(9000))
    for tail in tails:
        assert same(data + tail, data)
        assert reason(data[: len(data) // 2] + tail) == reasons.TRUNCATED
    assert same(b"ID3\4\0\0\0\0\7\x76" + bytes(1014) + data, data)
    assert same(bytes(300) + data, data)


@pytest.mark.parametrize("claim", [0, 5000])
def test_a_flac_with_more_frames_than_its_header_says(claim):
    # 36 bits of total samples, from half a byte at 21 on.
    data = encoded(hiss(3), "FLAC")
    changed = data[:21] + bytes([data[21] & 0xF0]) + claim.to_bytes(4, "big") + data[26:]
    assert same(changed, data)
    assert same(changed + b"TAG".ljust(128, b"\0"), data)
    assert reason(changed[: len(changed) // 2]) == reasons.TRUNCATED


def test_a_flac_of_no_frames_is_empty():
    data = encoded(hiss(), "FLAC")
    info = data[8:21] + bytes([data[21] & 0xF0]) + bytes(20)
    assert reason(b"fLaC\x80\0\0\x22" + info) == reasons.EMPTY
    assert reason(data[:60]) == reasons.TRUNCATED


def ogg_pages(packets, serial=7):
    """Pages of Ogg, a packet each, with checksums computed bit by bit as RFC 3533 has it."""
    pages = []
    for number, packet in enumerate(packets):
        flags = 2 * (number == 0) + 4 * (number == len(packets) - 1)
        lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        assert len(lacing) < 256
        head = struct.pack("<4sBBqII", b"OggS", 0, flags, 0, serial, number)
        page = head + bytes(4) + bytes([len(lacing)]) + lacing + packet
        crc = 0
        for byte in page:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        pages.append(page[:22] + struct.pack("<I", crc) + page[26:])
    return pages


def test_flac_in_ogg():
    flac = encoded(hiss(0.5), "FLAC")
    size = 5000  # a packet needs not to be a frame for libFLAC
    first, rest = b"\x7fFLAC\1\0\0\1" + flac[:42], flac[42:]
    pages = ogg_pages([first, *(rest[at : at + size] for at in range(0, len(rest), size))])
    assert len(pages) > 3
    assert same(b"".join(pages), flac)
    assert same(b"".join(pages) * 2, flac, flac)
    assert reason(b"".join(pages[:-1])) == reasons.TRUNCATED
    assert reason(b"".join(pages[:2] + pages[3:])) == reasons.TRUNCATED


def test_channels_of_opposite_phase_are_not_silence():
    left = hiss()
    assert reason(encoded(np.stack([left, -left], 1))) == reasons.CHANNELS_CANCEL
    assert reason(encoded(np.stack([left, -left], 1), "FLAC")) == reasons.CHANNELS_CANCEL
    # One second of the two is lost.
    half = np.where(np.arange(len(left)) < RATE, -left, left)
    assert reason(encoded(np.stack([left, half], 1))) == reasons.CHANNELS_CANCEL
    for right in (left, 0 * left, 0.5 * left, hiss(seed=3), -0.5 * left):
        assert reason(encoded(np.stack([left, right], 1))) is None


def test_digital_silence_is_noticed():
    assert read(encoded(np.zeros(RATE))).silent
    assert read(encoded(np.zeros((RATE, 2)))).silent
    assert not read(encoded(hiss())).silent
    assert not read(encoded(np.full(RATE, 2.0**-15))).silent


def test_caps_on_duration_and_channels():
    data = encoded(hiss(3))
    assert reason(data, max_seconds=3) is None
    assert reason(data, max_seconds=2.9) == reasons.TOO_LONG
    assert reason(encoded(np.tile(hiss(0.1)[:, None], 64))) is None
    assert reason(encoded(np.tile(hiss(0.1)[:, None], 65))) == reasons.TOO_MANY_CHANNELS


def test_a_container_that_nothing_can_check_is_refused():
    assert reason(encoded(hiss(), "MAT5")) == reasons.UNCHECKED
    assert reason(b"RIFF" + struct.pack("<I", 1000) + b"AVI " + bytes(1000)) == reasons.UNCHECKED
    assert reason(b"FORM" + struct.pack(">I", 1000) + b"ILBM" + bytes(1000)) == reasons.UNCHECKED


def test_a_long_mp3_is_not_held_in_memory():
    data = untagged(mp3(20)) * 60
    utterance_of = io.BytesIO(data)
    windowing = Windowing.of_seconds(window_seconds=30, context_seconds=2, normalize=True)
    tracemalloc.start()
    try:
        utterance = read_utterance(utterance_of, windowing.samples)
        assert utterance.duration_s == pytest.approx(1200, rel=0.01)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) > 4e6
    assert peak < 25e6  # as for a file of a minute: blocks of 2 MB as float64


def test_pieces_of_a_file_read_as_one_file():
    source, random = bytes(range(256)) * 4, np.random.default_rng(4)
    pieces = [(10, 300), b"between", (0, 0), (290, 1000), b"", b"end"]
    whole = b"".join(p if isinstance(p, bytes) else source[p[0] : p[1]] for p in pieces)
    file = Pieces(io.BytesIO(source), pieces)
    assert file.read() == whole and file.read(5) == b""
    for _ in range(200):
        place, size = (int(n) for n in random.integers(0, len(whole) + 20, 2))
        assert file.seek(place) == place
        assert file.read(size) == whole[place : place + size]
    assert file.seek(-3, 2) == len(whole) - 3 and file.read() == b"end"
