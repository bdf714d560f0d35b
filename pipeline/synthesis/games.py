"""The dialogue of three adventure games that Debian packages, read from the games' own files.

It has dozens of actors who act in English. Most of the recordings of recordings.py are read out,
and few are English.
"""

import io
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from pipeline.synthesis.recordings import RecordingSource
from tokenizer.audio.frames import SAMPLE_RATE as RATE
from tokenizer.storage.scratch import scratch_folder

# The sample rate of all three games.
GAME_RATE = 11_025
# Flight of the Amazon Queen: the offset of the table in queen.1c, after its number of entries.
QUEEN_TABLE = 15
QUEEN_MP3 = 1
QUEEN_ENTRY = np.dtype([("name", "S12"), ("bundle", "u1"), ("start", ">u4"), ("size", ">u4")])
# Beneath a Steel Sky: sky.dnr is a count and a table of the contents of sky.dsk. The high bits of
# start and size are flags.
SKY_ENTRY = np.dtype([("number", "<u2"), ("start", "u1", 3), ("size", "u1", 3)])
SKY_SPEECH = range(50_000, 60_000)
SKY_HEADER = 22
RNC = b"RNC\x01"


def _game(name: str, files: str) -> RecordingSource:
    return RecordingSource(
        name, "en", gender="several", pattern=f"usr/share/scummvm/{name}/{files}"
    )


# By half.
GAME_SOURCES = {
    "a": [_game("flight-of-the-amazon-queen", "queen.1c")],
    "b": [_game("beneath-a-steel-sky", "sky.dnr"), _game("drascula", "en/*.ALS")],
}


@cache  # as list_recordings()
def list_dialogue(game: RecordingSource) -> list[tuple[str, float]]:
    """(name, seconds) of each line of dialogue, in order; empty if the game is not installed.

    A name is the path of a file, or the path that the line would have if its container were a
    folder. Seconds may be up to 1 % too high. Raises ValueError or OSError for a damaged container.
    """
    found = []
    for path in sorted(Path("/").glob(game.pattern)):
        if path.suffix == ".ALS":
            found.append((str(path), path.stat().st_size / GAME_RATE))
            continue
        for line in _table(path):
            name = f"{path}/{line}"
            found.append((name, _seconds(name, _content(path, line))))
    return found


def decode_dialogue(name: str) -> np.ndarray:
    """Decode a line that list_dialogue() named: (n,) float32 at 16 kHz.

    Raises ValueError or OSError if it is damaged or does not exist.
    """
    path = Path(name)
    if path.suffix == ".ALS":
        return _resampled(_from_pcm(path.read_bytes()))
    content = _content(path.parent, path.name)
    if content.startswith(RNC):
        return _resampled(_from_pcm(_unpacked(name, content)))
    try:
        signal, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} is not an MP3: {error}") from error
    return _resampled(signal)


def _resampled(signal: np.ndarray) -> np.ndarray:
    return soxr.resample(signal, GAME_RATE, RATE)


def _from_pcm(data: bytes) -> np.ndarray:
    """Unsigned 8-bit samples → (n,) float32 in -1..1."""
    return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128


def _seconds(name: str, content: bytes) -> float:
    """Duration of a line, without decoding it."""
    if content.startswith(RNC):
        return _unpacked_size(content) / GAME_RATE
    try:
        info = soundfile.info(io.BytesIO(content))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} is not an MP3: {error}") from error
    if (info.samplerate, info.channels) != (GAME_RATE, 1):
        raise ValueError(f"{name} is not mono at {GAME_RATE} Hz")
    return info.duration


@cache  # reading a line needs the table
def _table(path: Path) -> dict[str, tuple[int, int]]:
    """{line: (offset, bytes)} of the speech in a container, in order."""
    table = _queen_table(path) if path.suffix == ".1c" else _sky_table(path)
    size = _data(path).stat().st_size
    if not table or not all(0 < length <= size - start for start, length in table.values()):
        raise ValueError(f"{path} is damaged: it lists no speech, or more than it contains")
    return table


def _data(path: Path) -> Path:
    """The file with the contents that a container's table lists."""
    return path.with_suffix(".dsk") if path.suffix == ".dnr" else path


def _content(path: Path, line: str) -> bytes:
    """The bytes of a line: an MP3, or an RNC stream of unsigned 8-bit samples."""
    if line not in _table(path):
        raise ValueError(f"{path} has no line {line}")
    start, size = _table(path)[line]
    with _data(path).open("rb") as data:
        data.seek(start)
        return data.read(size)


def _entries(path: Path, entry: np.dtype, count: int, start: int) -> np.ndarray:
    """`count` entries of a table, (count,)."""
    if path.stat().st_size < start + count * entry.itemsize:
        raise ValueError(f"{path} is damaged: it ends within its table of contents")
    return np.fromfile(path, entry, count, offset=start)


def _queen_table(path: Path) -> dict[str, tuple[int, int]]:
    with path.open("rb") as file:
        head = file.read(QUEEN_TABLE)
    if len(head) < QUEEN_TABLE or not head.startswith(b"QTBL") or head[12] != QUEEN_MP3:
        raise ValueError(f"{path} is not Flight of the Amazon Queen with speech in MP3")
    entries = _entries(path, QUEEN_ENTRY, count=int.from_bytes(head[13:], "big"), start=QUEEN_TABLE)
    return {
        name.decode("latin-1"): (start, size)
        for name, _, start, size in entries.tolist()
        if name.endswith(b".SB")
    }


def _sky_table(path: Path) -> dict[str, tuple[int, int]]:
    with path.open("rb") as file:
        count = int.from_bytes(file.read(4), "little")
    entries = _entries(path, SKY_ENTRY, count=count, start=4)
    table = {}
    with _data(path).open("rb") as data:
        for number, start, size in entries.tolist():
            if number not in SKY_SPEECH:
                continue
            first = int.from_bytes(bytes(start), "little")
            # Offsets of 8 MiB and more are counted in units of 16 bytes.
            if first & 0x800000:
                first = (first & 0x7FFFFF) << 4
            length = int.from_bytes(bytes(size), "little") & 0x3FFFFF
            data.seek(first + SKY_HEADER)
            # Some numbers in this range are pictures.
            if data.read(len(RNC)) == RNC:
                table[str(number)] = (first + SKY_HEADER, length - SKY_HEADER)
    return table


def _unpacked_size(content: bytes) -> int:
    return int.from_bytes(content[4:8], "big")


def _unpacked(name: str, content: bytes) -> bytes:
    """The decompressed contents of an RNC stream."""
    with scratch_folder() as scratch:
        packed, unpacked = scratch / "packed", scratch / "unpacked"
        packed.write_bytes(content)
        done = subprocess.run(
            ["ancient", "decompress", str(packed), str(unpacked)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        data = unpacked.read_bytes() if done.returncode == 0 else b""
    if len(data) != _unpacked_size(content):
        raise ValueError(f"{name} is damaged: ancient cannot unpack it")
    return data
