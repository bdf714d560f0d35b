"""Tar files: written so that equal members give equal bytes, and read so that damage is an error.

tarfile itself takes a damaged header for the end of the archive. webdataset's reader does too, and
it also opens `pipe:` URLs in a shell and unpickles members.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

from tokenizer.storage.unpacking import MOST_TIMES, Readable, Unpacked

# Bytes that tarfile reads at once. With its own 10 KB, a tar of audio costs more in Python than in
# decoding. With a large buffer, a tar of small members does: every read copies the buffer's rest.
LARGE_MEMBERS, SMALL_MEMBERS = 1 << 20, 16 << 10


# A pax header or a GNU long name is read into memory whole, and so are all that are of the archive.
LARGEST_HEADER = 1 << 20
# A member has up to four of them.
MOST_HEADERS = 16
# Zeros may follow the end of an archive, up to a tape's block; there are never as many as these.
MOST_ZEROS = 64 << 20
# A sparse file may have holes of this many bytes, and a limited number for each byte it stores.
FREE_HOLES, MOST_HOLES = 16 << 20, 1 << 30
# tarfile passes over a member by reading it, and over one that claims 2^60 bytes by 2^40 reads. Of
# these so many may find the stream at its end.
MOST_EMPTY_READS = 1000
# Headers whose content is read into memory.
LONG_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class TarWriter:
    """A tar whose bytes depend on its members alone: times and owners are zero."""

    def __init__(self, path: Path) -> None:
        """path: a local file."""
        archive: Any = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._archive = archive  # its types do not have `members`

    def add(self, name: str, data: bytes) -> None:
        """Append one member."""
        self.add_file(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, source: IO[bytes], size: int) -> None:
        """Append one member of `size` bytes from a file. Raises OSError if it holds fewer."""
        info = tarfile.TarInfo(name)
        info.size = size
        self._archive.addfile(info, source)
        self._archive.members = []  # tarfile would keep them all, 2 KB an utterance

    def close(self) -> None:
        """Write the end of the archive. A tar without it counts as broken."""
        self._archive.close()


def read_members(
    stream: Readable, buffer_bytes: int = LARGE_MEMBERS
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """(header, content of a regular file) of every member, in order.

    Gzip, bzip2 and xz are unpacked. A member's content can be read until the next member is asked
    for; the holes of a sparse file are zeros. Archives that were joined, as `cat` does, are read
    one after the other. Raises tarfile.TarError or EOFError where the tar is cut or damaged, and
    passes on errors of the stream itself.
    """
    open_tar: Any = tarfile.open  # its types ask more of a stream than it does
    rest = _Rest(Unpacked(stream))
    while True:
        archive = open_tar(fileobj=rest, mode="r|", bufsize=buffer_bytes, tarinfo=_StrictTarInfo)
        for info in archive:
            archive.members = []  # tarfile would keep them all, and a shard may have millions
            _check_holes(info)
            yield info, archive.extractfile(info) if info.isreg() else None
        rest.put_back(archive.fileobj.buf)
        if not _skip_zeros(rest):
            return


def _check_holes(info: tarfile.TarInfo) -> None:
    """Raises TarError for a sparse file that is almost all hole."""
    if not info.issparse():
        return
    pieces: Any = info.sparse  # (offset, bytes) of what is no hole; its type is wrong
    stored = sum(size for _, size in pieces)
    if info.size > FREE_HOLES + MOST_TIMES * stored or info.size - stored > MOST_HOLES:
        raise tarfile.ReadError(f"{info.size:,} bytes of holes around {stored:,} bytes")


class _Rest:
    """A stream to which bytes that were read too far can be put back."""

    def __init__(self, stream: Readable) -> None:
        self._head, self._stream = b"", stream
        self._empty = 0

    def put_back(self, data: bytes) -> None:
        self._head = data + self._head

    def read(self, size: int, /) -> bytes:
        data, self._head = self._head[:size], self._head[size:]
        if len(data) < size:
            data += self._stream.read(size - len(data))
        self._empty = 0 if data else self._empty + 1
        if self._empty > MOST_EMPTY_READS:
            raise tarfile.ReadError("it ends within a member")
        return data


class _Header:
    """A stream of which no more than a header's bytes are read. Raises ReadError for more."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left = stream, LARGEST_HEADER

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= size
        if self._left < 0 or len(data) < size:
            what = "is cut" if self._left >= 0 else f"has over {LARGEST_HEADER:,} bytes"
            raise tarfile.ReadError(f"the map of a sparse file {what}")
        return data

    def tell(self) -> int:
        return self._stream.tell()


def _skip_zeros(rest: _Rest) -> bool:
    """Skip the blocks of zeros that end an archive; returns whether another one follows."""
    zeros = 0
    while block := rest.read(tarfile.BLOCKSIZE):
        if block.strip(b"\0"):
            rest.put_back(block)
            return True
        zeros += len(block)
        if zeros > MOST_ZEROS:
            raise tarfile.ReadError("over 64 MB of zeros after the end of the archive")
    return False


class _StrictTarInfo(tarfile.TarInfo):
    """Tells the end of an archive (zero blocks) from a place where it is cut or damaged."""

    @classmethod
    def fromtarfile(cls, archive: Any) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except (tarfile.HeaderError, ValueError) as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error

    def _proc_member(self, archive: Any) -> Any:
        if self.type in LONG_HEADERS:
            # Those of the whole archive stay in memory, and tarfile calls itself for the next one.
            kept = LARGEST_HEADER - getattr(archive, "global_bytes", 0)
            row = archive.headers_in_a_row = getattr(archive, "headers_in_a_row", 0) + 1
            if self.size > kept:
                raise tarfile.ReadError(f"a header of {self.size:,} bytes at byte {archive.offset}")
            if row > MOST_HEADERS:
                raise tarfile.ReadError(f"over {MOST_HEADERS} headers of one member")
            if self.type == tarfile.XGLTYPE:
                archive.global_bytes = LARGEST_HEADER - kept + self.size
        else:
            archive.headers_in_a_row = 0
        return super()._proc_member(archive)  # type: ignore[misc]

    # The maps of sparse files: old GNU's goes on while each block says so, and the pax format's for
    # as many lines as its first one says.

    def _proc_sparse(self, archive: Any) -> Any:
        return self._with_map(super()._proc_sparse, archive)  # type: ignore[misc]

    def _proc_gnusparse_10(self, next: Any, pax_headers: dict[str, str], archive: Any) -> None:
        proc = super()._proc_gnusparse_10  # type: ignore[misc]
        self._with_map(lambda archive: proc(next, pax_headers, archive), archive)

    @staticmethod
    def _with_map(read: Callable[[Any], Any], archive: Any) -> Any:
        stream = archive.fileobj
        archive.fileobj = _Header(stream)
        try:
            return read(archive)
        finally:
            archive.fileobj = stream
