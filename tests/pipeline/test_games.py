"""The dialogue of adventure games, from made-up containers of the three formats."""

import io
import shutil

import numpy as np
import pytest
import soundfile

from pipeline.synthesis.games import GAME_RATE, decode_dialogue, list_dialogue
from pipeline.synthesis.plan import RecordingGroup, ShardPlan
from pipeline.synthesis.recordings import RecordingSource
from pipeline.synthesis.speech_shard import make_noise_shard, make_shard
from pipeline.synthesis.voices import GAMES, Voice


def tone(hz, seconds):
    """A sine: (n,) unsigned 8-bit samples at GAME_RATE."""
    times = np.arange(int(seconds * GAME_RATE)) / GAME_RATE
    return (128 + 60 * np.sin(2 * np.pi * hz * times)).astype(np.uint8)


def pitch(signal):
    """The strongest frequency in Hz of a signal (n,) at 16 kHz."""
    return np.abs(np.fft.rfft(signal)).argmax() * 16_000 / len(signal)


def crc16(data):
    """The checksum of an RNC stream, over packed and unpacked data."""
    rest = 0
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = (rest >> 1) ^ (0xA001 if rest & 1 else 0)
    return rest.to_bytes(2, "big")


def rnc(samples):
    """An RNC1 stream with a single run of literals."""
    data = samples.tobytes()
    top = len(data).bit_length()
    # No lock and no key; a one-bit code for runs of this length; no codes for matches.
    fields = [(0, 2), (top + 1, 5), *[(0, 4)] * top, (1, 4), (0, 5), (0, 5)]
    # One run. The highest bit of its length is implied.
    fields += [(1, 16), (0, 1), (len(data) - (1 << (top - 1)), top - 1)]
    bits = [value >> place & 1 for value, count in fields for place in range(count)]
    bits += [0] * (-len(bits) % 16)
    packed = np.packbits(bits, bitorder="little").tobytes() + data
    sizes = len(data).to_bytes(4, "big") + len(packed).to_bytes(4, "big")
    return b"RNC\x01" + sizes + crc16(data) + crc16(packed) + b"\0\1" + packed


def queen(path, files):
    """Write a queen.1c: a table of {name: content}, and the contents."""
    table, place = b"", 15 + 21 * len(files)
    for name, content in files.items():
        numbers = b"\1" + place.to_bytes(4, "big") + len(content).to_bytes(4, "big")
        table += name.encode().ljust(12, b"\0") + numbers
        place += len(content)
    head = b"QTBLCEM10\0\0\0\1" + len(files).to_bytes(2, "big")
    path.write_bytes(head + table + b"".join(files.values()))


def sky(path, files, far=0):
    """Write a sky.dnr and a sky.dsk: a table of {number: content}, and the contents.

    far: offset of the first content; offsets of 8 MiB and more are multiples of 16.
    """
    table, data = len(files).to_bytes(4, "little"), bytearray(far)
    for number, content in files.items():
        data += bytes(-len(data) % 16)
        place = len(data) if len(data) < 1 << 23 else len(data) >> 4 | 1 << 23
        # The bits above the size tell the game how to read it.
        size = len(content) | 1 << 22
        table += number.to_bytes(2, "little") + place.to_bytes(3, "little")
        table += size.to_bytes(3, "little")
        data += content
    path.write_bytes(table)
    path.with_suffix(".dsk").write_bytes(data)


def game(path):
    """A game whose files are at an absolute path or glob."""
    return RecordingSource("made-up", "en", gender="several", pattern=str(path).lstrip("/"))


def mp3(hz, seconds):
    """The bytes of an MP3 of a sine."""
    data = io.BytesIO()
    soundfile.write(data, (tone(hz, seconds) / 128.0) - 1, GAME_RATE, format="MP3")
    return data.getvalue()


def test_lines_of_the_queen(tmp_path):
    path = tmp_path / "queen.1c"
    speech = {"020001P2.SB": mp3(300, 2), "TOM_0826.SB": mp3(500, 1)}
    queen(path, {"ZOMBIE.ACT": b"no speech", **speech})
    found = dict(list_dialogue(game(path)))
    assert list(found) == [f"{path}/020001P2.SB", f"{path}/TOM_0826.SB"]
    for (name, seconds), wanted, hz in zip(found.items(), (2, 1), (300, 500)):
        signal = decode_dialogue(name)
        assert signal.dtype == np.float32 and signal.ndim == 1
        # An MP3 is padded to whole frames.
        assert abs(seconds - wanted) < 0.2 and abs(len(signal) / 16_000 - seconds) < 0.1
        assert abs(pitch(signal) - hz) < 3 and 0.4 < np.abs(signal).max() < 0.55
    with pytest.raises(ValueError, match="no line 1"):
        decode_dialogue(f"{path}/1")


@pytest.mark.parametrize("far", [0, (1 << 23) + 16])
def test_lines_of_the_sky(tmp_path, far):
    path = tmp_path / "sky.dnr"
    samples = tone(300, 1.5)
    speech, picture = bytes(22) + rnc(samples), bytes(range(99))
    sky(path, {7: speech, 50_001: picture, 59_494: speech, 60_000: speech}, far)
    assert list_dialogue(game(path)) == [(f"{path}/59494", len(samples) / GAME_RATE)]
    if shutil.which("ancient"):
        signal = decode_dialogue(f"{path}/59494")
        assert signal.dtype == np.float32 and abs(len(signal) - 24_000) <= 2
        assert abs(pitch(signal) - 300) < 3 and 0.4 < np.abs(signal).max() < 0.5


def test_files_of_samples_make_an_utterance_and_noise_needs_no_synthesiser(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.ALS").write_bytes(tone(300, number).tobytes())
    found = list_dialogue(game(tmp_path / "*.ALS"))
    assert found == [(f"{tmp_path}/{n}.ALS", n) for n in (1, 2)]
    cast = Voice(GAMES, "made-up", language="en", gender="several")
    groups = [RecordingGroup(cast, tuple(name for name, _ in found))]
    (row,) = make_shard(
        ShardPlan("a/a-000", "a", number=0, seed=(1,), seconds={}, sentences=[], recordings=groups),
        tmp_path / "a.tar",
    )
    assert (row["speaker"], row["engine"]) == ("recording-made-up", "recording")
    assert 3 < row["seconds"] < 3.4
    noise = ShardPlan(
        "noise/noise-000", "noise", number=0, seed=(2,), seconds={"noise": 20.0}, sentences=[]
    )
    assert sum(r["seconds"] for r in make_noise_shard(noise, tmp_path / "noise.tar")) >= 20


def test_damaged_games_are_told(tmp_path):
    path = tmp_path / "queen.1c"
    queen(path, {"020001P2.SB": mp3(300, 2)})
    whole = path.read_bytes()
    wrong = {
        "short.1c": (whole[:-100], "more than it contains"),
        "table.1c": (whole[:20], "table of contents"),
        "garbage.1c": (b"garbage", "not Flight of the Amazon Queen"),
        "other.1c": (whole[:12] + b"\2" + whole[13:], "not Flight of the Amazon Queen"),
        "noise.1c": (whole[:36] + bytes(len(whole) - 36), "not an MP3"),
        "garbage.dnr": (b"garbage", "table of contents"),
    }
    for name, (content, why) in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*{why}"):
            list_dialogue(game(tmp_path / name))
    sky(tmp_path / "sky.dnr", {50_000: bytes(22) + rnc(tone(300, 1))})
    (tmp_path / "sky.dsk").write_bytes((tmp_path / "sky.dsk").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"sky\.dnr.*more than it contains"):
        list_dialogue(game(tmp_path / "sky.dnr"))
    sky(tmp_path / "odd.dnr", {50_000: bytes(22) + rnc(tone(300, 1))[:40]})
    if shutil.which("ancient"):
        with pytest.raises(ValueError, match=r"odd\.dnr/50000 is damaged"):
            decode_dialogue(f"{tmp_path}/odd.dnr/50000")
    (tmp_path / "odd.dsk").unlink()
    with pytest.raises(OSError, match=r"odd\.dsk"):
        list_dialogue(game(tmp_path / "odd.dnr"))
