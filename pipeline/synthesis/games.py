"""The dialogue of three old adventure games that Debian packages, out of the games' own files.

Dozens of actors, who act: most of what recordings.py finds is read out, and little of it is
English.
"""

import io
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from pipeline.synthesis.recordings import Source
from tokenizer.audio.effects import RATE

# Of all three games: what a CD held then.
GAME_RATE = 11_025
# The table of Flight of the Amazon Queen starts here in queen.1c, after its count of entries.
QUEEN_TABLE = 15
QUEEN_MP3 = 1
QUEEN_ENTRY = np.dtype([("name", "S12"), ("bundle", "u1"), ("start", ">u4"), ("size", ">u4")])
# sky.dnr is a count and then the table of what is in sky.dsk. Its start and size have flags above.
SKY_ENTRY = np.dtype([("number", "<u2"), ("start", "u1", 3), ("size", "u1", 3)])
SKY_SPEECH = range(50_000, 60_000)
SKY_HEADER = 22
RNC = b"RNC\x01"


def _game(name: str, files: str) -> Source:
    return Source(name, "en", gender="several", pattern=f"usr/share/scummvm/{name}/{files}")


# By half.
PLAYED = {
    "a": [_game("flight-of-the-amazon-queen", "queen.1c")],
    "b": [_game("beneath-a-steel-sky", "sky.dnr"), _game("drascula", "en/*.ALS")],
}


@cache  # as recordings.recordings()
def lines(game: Source) -> list[tuple[str, float]]:
    """(name, seconds) of each spoken line, in order; empty if the game is not installed.

    A name is the path of a file, or what would be its path if the container were a folder. Seconds
    may be up to 1 % too many. Raises ValueError or OSError for a container that is damaged.
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


def decode(name: str) -> np.ndarray:
    """A line that lines() named, as (n,) float32 at 16 kHz.

    Raises ValueError or OSError if it is damaged or is no such line.
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
        raise ValueError(f"{name} is no MP3: {error}") from error
    return _resampled(signal)


def _resampled(signal: np.ndarray) -> np.ndarray:
    return soxr.resample(signal, GAME_RATE, RATE)


def _from_pcm(data: bytes) -> np.ndarray:
    """Unsigned 8-bit samples as (n,) float32 in -1..1."""
    return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128


def _seconds(name: str, content: bytes) -> float:
    """How long a line is, without decoding it."""
    if content.startswith(RNC):
        return _unpacked_size(content) / GAME_RATE
    try:
        about = soundfile.info(io.BytesIO(content))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} is no MP3: {error}") from error
    if (about.samplerate, about.channels) != (GAME_RATE, 1):
        raise ValueError(f"{name} is not mono of {GAME_RATE} Hz")
    return about.duration


# Every line that is read asks for its table.
@cache
def _table(path: Path) -> dict[str, tuple[int, int]]:
    """{line: (first byte, bytes)} of the speech in a container, in order."""
    table = _queen_table(path) if path.suffix == ".1c" else _sky_table(path)
    size = _data(path).stat().st_size
    if not table or not all(0 < length <= size - start for start, length in table.values()):
        raise ValueError(f"{path} is damaged: it lists no speech, or more than there is")
    return table


def _data(path: Path) -> Path:
    """The file that holds what a container's table lists."""
    return path.with_suffix(".dsk") if path.suffix == ".dnr" else path


def _content(path: Path, line: str) -> bytes:
    """A line as its container has it: an MP3, or an RNC stream of unsigned 8-bit samples."""
    if line not in _table(path):
        raise ValueError(f"{path} has no line {line}")
    start, size = _table(path)[line]
    with _data(path).open("rb") as data:
        data.seek(start)
        return data.read(size)


def _entries(path: Path, entry: np.dtype, count: int, start: int) -> np.ndarray:
    """`count` entries of a table, (count,)."""
    if path.stat().st_size < start + count * entry.itemsize:
        raise ValueError(f"{path} is damaged: it ends before its table of contents does")
    return np.fromfile(path, entry, count, offset=start)


def _queen_table(path: Path) -> dict[str, tuple[int, int]]:
    with path.open("rb") as file:
        head = file.read(QUEEN_TABLE)
    if len(head) < QUEEN_TABLE or not head.startswith(b"QTBL") or head[12] != QUEEN_MP3:
        raise ValueError(f"{path} is not Flight of the Amazon Queen with its speech as MP3")
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
            # What lies further back than 8 MiB is found in steps of 16 bytes.
            if first & 0x800000:
                first = (first & 0x7FFFFF) << 4
            length = int.from_bytes(bytes(size), "little") & 0x3FFFFF
            data.seek(first + SKY_HEADER)
            # Some of these numbers are pictures.
            if data.read(len(RNC)) == RNC:
                table[str(number)] = (first + SKY_HEADER, length - SKY_HEADER)
    return table


def _unpacked_size(content: bytes) -> int:
    return int.from_bytes(content[4:8], "big")


def _unpacked(name: str, content: bytes) -> bytes:
    """What an RNC stream holds."""
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        packed, unpacked = Path(scratch) / "packed", Path(scratch) / "unpacked"
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
