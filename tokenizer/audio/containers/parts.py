"""Parts of a file that are decoded one after the other, and views of a file without copies."""

import functools
import io
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
LARGEST_PLACE = 1 << 62
BUFFER_BYTES = 1 << 16
# Bytes behind the audio that may stay unexplained, of those that the audio has.
UNCLAIMED_SHARE = 0.01
TEXT = bytes([*range(32, 127), *b"\t\n\r\f"])
# Tags behind the audio: ID3v1, APE, Lyrics3, and ID3v2 with its footer.
TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI", b"ID3")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stream of audio.

    file: what a decoder reads; seekable. format: the container's name in FFmpeg. sndfile: whether
    libsndfile is tried first. least_samples: per channel, that the stream must give; 0 if only the
    decoder knows.
    """

    file: BinaryIO
    format: str
    sndfile: bool = True
    least_samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """name: of four bytes. start, size: of its content. end: where the next chunk begins."""

    name: bytes
    start: int
    size: int
    end: int


# Yields the parts of the file that begins at a byte; returns where the next one does, or None.
OneFile = Callable[[BinaryIO, int], Generator[Part, None, int | None]]


def one_after_another(read_one: OneFile) -> Callable[[BinaryIO, int], Iterator[Part]]:
    """A reader of any number of joined files, from one of a single file.

    In a loop: a reader that called itself would fail at a thousand files.
    """

    @functools.wraps(read_one)
    def read_all(file: BinaryIO, start: int) -> Iterator[Part]:
        at: int | None = start
        while at is not None:
            at = yield from read_one(file, at)

    return read_all


class Pieces(io.RawIOBase):
    """Bytes and ranges of a file, joined into one seekable file. Nothing is copied.

    pieces: bytes, or (start, stop) of the file.
    """

    def __init__(self, file: BinaryIO, pieces: Iterable[bytes | tuple[int, int]]) -> None:
        super().__init__()
        self._file = file
        self._literals: list[bytes] = []
        # Of each piece: where it begins in the joined file, and in the file. The latter is negative
        # for bytes: -1 - their index. Arrays, since an hour of Ogg FLAC has thousands of pieces.
        self._starts, self._sources = array("q"), array("q")
        self._size = self._position = 0
        for piece in pieces:
            self._starts.append(self._size)
            if isinstance(piece, bytes):
                self._sources.append(-1 - len(self._literals))
                self._literals.append(piece)
                self._size += len(piece)
            else:
                self._sources.append(piece[0])
                self._size += piece[1] - piece[0]

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in the joined file."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's."""
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, unless the end comes first; returns the number of bytes."""
        target, filled = memoryview(buffer).cast("B"), 0
        while filled < len(target) and self._position < self._size:
            data = self._read_piece(len(target) - filled)
            if not data:
                break
            target[filled : filled + len(data)] = data
            filled += len(data)
            self._position += len(data)
        return filled

    def _read_piece(self, size: int) -> bytes:
        """Up to `size` bytes from the position on, of one piece."""
        index = bisect_right(self._starts, self._position) - 1
        stop = self._starts[index + 1] if index + 1 < len(self._starts) else self._size
        size, offset = min(size, stop - self._position), self._position - self._starts[index]
        source = self._sources[index]
        if source < 0:
            return self._literals[-1 - source][offset : offset + size]
        return read_at(self._file, source + offset, size)


def joined(file: BinaryIO, pieces: Iterable[bytes | tuple[int, int]]) -> BinaryIO:
    """Bytes, and ranges (start, stop) of a file, as one file."""
    # Buffered, because decoders read a few bytes at a time.
    return io.BufferedReader(Pieces(file, pieces), BUFFER_BYTES)


def view(
    file: BinaryIO, start: int, stop: int, *, patches: dict[int, bytes] | None = None
) -> BinaryIO:
    """Bytes [start, stop) of a file, with some of them replaced.

    patches: {place in the file: bytes}. The file itself where nothing is cut off or replaced.
    """
    if not patches and not start and stop == size_of(file):
        return file
    pieces: list[bytes | tuple[int, int]] = []
    for place, patch in sorted((patches or {}).items()):
        pieces += [(start, place), patch]
        start = place + len(patch)
    return joined(file, [*pieces, (start, stop)])


def read_at(file: BinaryIO, place: int, size: int) -> bytes:
    """Up to `size` bytes of a file from a place on; none where a damaged size leads beyond it."""
    if not 0 <= place < LARGEST_PLACE:
        return b""
    file.seek(place)
    return file.read(size)


def find_bytes(file: BinaryIO, what: bytes, start: int) -> int:
    """Where `what` is for the first time, at `start` or later; -1 where it is not."""
    for place in range(start, size_of(file), BLOCK_BYTES):
        at = read_at(file, place, BLOCK_BYTES + len(what) - 1).find(what)
        if at >= 0:
            return place + at
    return -1


def size_of(file: BinaryIO) -> int:
    """Bytes of a file."""
    return file.seek(0, 2)


def after_id3v2(file: BinaryIO, start: int) -> int:
    """Where the ID3v2 tags that begin at `start` end; `start` if there are none."""
    while (head := read_at(file, start, 10))[:3] == b"ID3" and len(head) == 10:
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        start += 10 + length + (10 if head[5] & 0x10 else 0)
    return start


def after_tags(file: BinaryIO, start: int) -> int:
    """Where the ID3v1, ID3v2 and APE tags that begin at `start` end; `start` without any."""
    while True:
        head, end = read_at(file, start, 32), after_id3v2(file, start)
        if head[:3] == b"TAG":
            end = start + 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            end = start + 32 + int.from_bytes(head[12:16], "little")
        if end == start:
            return start
        start = end


def is_padding(file: BinaryIO, start: int, stop: int) -> bool:
    """Whether bytes [start, stop) are a tag, zeros or text: certainly no audio."""
    if read_at(file, start, 12).startswith(TAGS):
        return True
    for place in range(start, stop, BLOCK_BYTES):
        block = read_at(file, place, min(BLOCK_BYTES, stop - place))
        if block.strip(b"\0").translate(None, TEXT):
            return False
    return True
