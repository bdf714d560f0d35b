"""Tar files: written so that equal members give equal bytes, and read so that damage is an error.

tarfile itself takes a damaged header for the end of the archive. webdataset's reader does too, and
it also opens `pipe:` URLs in a shell and unpickles members.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol, Self

# Bytes that tarfile reads at once. With its own 10 KB, a tar of audio costs more in Python than in
# decoding. With a large buffer, a tar of small members does: every read copies the buffer's rest.
LARGE_MEMBERS, SMALL_MEMBERS = 1 << 20, 16 << 10


class Readable(Protocol):
    """A stream that is read from start to end."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        ...


class TarWriter:
    """A tar whose bytes depend on its members alone: times and owners are zero."""

    def __init__(self, path: Path) -> None:
        """path: a local file."""
        self._archive = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, data: bytes) -> None:
        """Append one member."""
        self.add_file(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, source: IO[bytes], size: int) -> None:
        """Append one member of `size` bytes from a file. Raises OSError if it holds fewer."""
        info = tarfile.TarInfo(name)
        info.size = size
        self._archive.addfile(info, source)

    def close(self) -> None:
        """Write the end of the archive. A tar without it counts as broken."""
        self._archive.close()


def read_members(
    stream: Readable, buffer_bytes: int = LARGE_MEMBERS
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """(header, content of a regular file) of every member, in order; gzip is unpacked.

    A member's content can be read until the next member is asked for. Raises tarfile.TarError or
    EOFError where the tar is cut or damaged, and passes on errors of the stream itself.
    """
    open_tar: Any = tarfile.open  # its types ask more of a stream than it does
    archive = open_tar(fileobj=stream, mode="r|*", bufsize=buffer_bytes, tarinfo=_StrictTarInfo)
    for info in archive:
        archive.members = []  # tarfile would keep them all, and a shard may have millions
        regular = info.isreg() and not info.issparse()
        yield info, archive.extractfile(info) if regular else None
    # A block of zeros ends an archive: more after it is a damaged header, or a second tar.
    while rest := archive.fileobj.read(buffer_bytes):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("data after the end of the archive")


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
