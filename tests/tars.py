"""Tars in memory, as the tests of audio and token shards need them, and what tests/speech holds."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile

SPEECH = Path(__file__).resolve().parent / "speech"

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar(*members, form="gnu", **options):
    """A tar in memory. members: (name, bytes), or a TarInfo of what has no content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=FORMATS[form], **options) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def recordings(shard: str = "speech-000000") -> dict[str, bytes]:
    """{key: its flac} of a shard of tests/speech, in order."""
    with tarfile.open(SPEECH / f"{shard}.tar") as archive:
        flacs = [info for info in archive if info.name.endswith(".flac")]
        return {i.name.removesuffix(".flac"): archive.extractfile(i).read() for i in flacs}


def waves(shard: str = "speech-000000", dtype: str = "float32") -> list[np.ndarray]:
    """The waveforms of a shard of tests/speech, (n,) each, at 16 kHz."""
    files = map(io.BytesIO, recordings(shard).values())
    return [soundfile.read(file, dtype=dtype)[0] for file in files]


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class OneWay:
    """A stream that can only be read, as a store's is, and that may fail on the way."""

    def __init__(self, data, fails_after=None):
        self.file, self.left = io.BytesIO(data), fails_after

    def read(self, size):
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise ConnectionResetError("the store went away")
        return self.file.read(size)


def sparse(name: str, stored: bytes, size: int) -> bytes:
    """A tar of a file of `size` bytes that is a hole behind its first bytes, as of `tar -S`."""
    header = bytearray(tar((name, stored))[:512])
    header[156:157], header[257:265] = b"S", b"ustar  \0"
    header[386:410] = b"%011o\0%011o\0" % (0, len(stored))
    header[483:495] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:])
    return bytes(header) + stored + bytes(-len(stored) % 512) + bytes(1024)
