"""Compressed streams → plain ones: gzip, bzip2 and xz, of any number of members, in little memory.

`cat a.gz b.gz`, pigz and bgzip write files of many members; tarfile's own streams stop after the
first, without an error.
"""

import bz2
import lzma
import tarfile
import zlib
from typing import Any, Protocol

# Bytes that are asked of the compressed stream, and of the decompressor, at once.
STEP = 1 << 20
# A stream may unpack to this many bytes, and to this many times what was read. Silent WAVs shrink
# to a hundredth; a file made to fill a memory shrinks to a millionth.
FREE_BYTES, MOST_TIMES = 256 << 20, 200
# An xz says how much memory it needs, up to 4 GB. With `xz -9` that is 65 MB.
MOST_XZ_MEMORY = 256 << 20
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}


class Readable(Protocol):
    """A stream that is read from start to end."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        ...


class UnpackError(tarfile.ReadError):
    """A compressed stream that is cut or damaged, or that unpacks to far more than it is."""


class Unpacked:
    """A stream without its compression; one that has none passes through."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._head = stream.read(6)
        kinds = [kind for magic, kind in MAGIC.items() if self._head.startswith(magic)]
        self.kind = kinds[0] if kinds else None
        self._decoder: Any = _decoder(self.kind) if self.kind else None
        # Bytes of the compressed stream, and bytes that they unpacked to.
        self._taken, self._given = len(self._head), 0
        self._error: UnpackError | None = None

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end.

        Raises UnpackError where the stream is cut or damaged or unpacks to too much, and passes on
        errors of the stream itself.
        """
        if self.kind is None:
            head, self._head = self._head[:size], self._head[size:]
            return head + self._stream.read(size - len(head)) if len(head) < size else head
        if self._error:
            raise self._error
        parts, wanted = [], size
        try:
            while wanted and (part := self._next(wanted)):
                parts.append(part)
                wanted -= len(part)
        except UnpackError as error:
            if not parts:
                raise
            self._error = error  # what came before the damage is good
        return b"".join(parts)

    def _next(self, size: int) -> bytes:
        """Some bytes, up to `size`; none at the end."""
        while True:
            if self._decoder.eof:
                rest = self._decoder.unused_data or self._more()
                # Zeros may fill the last block of a tape; other bytes would be another member.
                while rest and not rest.strip(b"\0"):
                    rest = self._more()
                if not rest:
                    return b""
                self._decoder, self._head = _decoder(self.kind), rest
            packed = b""
            if self._head or self._decoder.needs_input:
                packed = self._more()
            if not packed and self._decoder.needs_input:
                raise UnpackError(f"its {self.kind} ends too early")
            try:
                part = self._decoder.decompress(packed, min(size, STEP))
            except (zlib.error, OSError, lzma.LZMAError, EOFError) as error:
                raise UnpackError(f"its {self.kind} is damaged: {error}") from error
            self._given += len(part)
            if self._given > FREE_BYTES + MOST_TIMES * self._taken:
                raise UnpackError(f"it unpacks to over {MOST_TIMES} times its size")
            if part:
                return part

    def _more(self) -> bytes:
        """More of the compressed stream, what was put back first."""
        if self._head:
            packed, self._head = self._head, b""
        else:
            packed = self._stream.read(STEP)
            self._taken += len(packed)
        return packed


class _Gzip:
    """zlib's decompressor with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, packed: bytes, size: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + packed, size)


def _decoder(kind: str | None) -> Any:
    if kind == "gzip":
        return _Gzip()
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(memlimit=MOST_XZ_MEMORY)
