"""WebDataset tars: reading samples one at a time out of a stream, and writing token shards.

tarfile rather than webdataset's reader, which opens `pipe:` URLs in a shell and unpickles members,
and which, like tarfile left to itself, takes a damaged header for the end of the archive.
"""

import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

AUDIO_ENDINGS = ("flac", "wav", "ogg", "opus", "mp3")
# Audio members over this size wait on local disk instead of in memory.
SPOOL_BYTES = 32 << 20
# tarfile's own 10 KB a read would cost more in Python than in decoding.
READ_BYTES = 1 << 20
# WebDataset's rule: the key is the path up to the first dot of the file's name.
KEY_AND_ENDING = re.compile(r"^((?:.*/|)[^./][^./]*)\.([^/]*)$")

NO_AUDIO = "no_audio"
TWO_AUDIOS = "two_audio_members"
DUPLICATE_KEY = "duplicate_key"
BAD_NAME = "bad_name"
BROKEN_TAR = "broken_tar"


class _StrictTarInfo(tarfile.TarInfo):
    """Tells the end of an archive (zero blocks) from a place where it is cut or damaged."""

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except (tarfile.HeaderError, ValueError) as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error


@dataclass
class Sample:
    """Members of one key that lie together in a tar.

    problem: why it cannot be tokenized, one of this module's reasons, else None.
    audio: its one audio member, to be closed by whoever takes the sample.
    metadata: its .json member's value. metadata_error: why there is none, though it has a .json.
    """

    key: str
    problem: str | None = None
    audio: BinaryIO | None = None
    metadata: object = None
    metadata_error: str | None = None


def read_samples(stream: BinaryIO) -> Iterator[Sample]:
    """The samples of a tar, in order; a tar that breaks ends with a sample of problem BROKEN_TAR.

    A sample with several audio members, none, a key seen before, or a name that leads out of its
    folder comes with its problem. Only regular audio and json members are read; nothing is
    executed or unpickled. Errors of the stream itself (OSError) are passed on.
    """
    seen: set[str] = set()
    sample = None
    try:
        for key, ending, member, safe in _members(stream):
            if sample is not None and key != sample.key:
                yield _finished(sample, seen)
                sample = None
            if sample is None:
                sample = Sample(key, None if safe else BAD_NAME)
            if safe and member is not None:
                _take(sample, ending, member)
    except (tarfile.TarError, EOFError) as error:
        if sample is not None and sample.audio is not None:
            sample.metadata_error = None if sample.metadata else f"broken tar: {error}"
            yield _finished(sample, seen)
            sample = None
        yield Sample(sample.key if sample else "", BROKEN_TAR, metadata_error=str(error))
        return
    if sample is not None:
        yield _finished(sample, seen)


def _members(stream: BinaryIO) -> Iterator[tuple[str, str, BinaryIO | None, bool]]:
    """(key, ending, content if a regular file, whether the name is safe) of samples' members."""
    archive = tarfile.open(  # noqa: SIM115
        fileobj=stream, mode="r|*", bufsize=READ_BYTES, tarinfo=_StrictTarInfo
    )
    for info in archive:
        archive.members = []  # tarfile would keep them all, and a shard may have millions
        # Bytes that are not UTF-8 come as surrogates, which no Parquet file takes.
        name = info.name.encode("utf-8", "backslashreplace").decode()
        utf8 = name == info.name
        name = name.removeprefix("./")
        if info.isdir() or name.rpartition("/")[2].startswith("._"):
            continue  # macOS packs a "._name" beside every file
        match = KEY_AND_ENDING.match(name)
        if match:
            safe = utf8 and not name.startswith("/") and ".." not in name.split("/")
            regular = info.isreg() and not info.issparse()
            content = archive.extractfile(info) if regular else None
            yield match[1], match[2].lower(), content, safe
        elif name.lower().endswith(AUDIO_ENDINGS):
            yield name, "", None, False
    # A block of zeros ends an archive: more after it is a damaged header, or a second tar.
    while rest := archive.fileobj.read(READ_BYTES):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("data after the end of the archive")


def _take(sample: Sample, ending: str, member: BinaryIO) -> None:
    if ending == "json":
        try:
            # Python's own NaN and Infinity would make the output something else than JSON.
            sample.metadata = json.loads(member.read(), parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            sample.metadata_error = f"not JSON: {error}"
    elif ending.rpartition(".")[2] in AUDIO_ENDINGS:
        if sample.audio is not None:
            sample.problem = TWO_AUDIOS
            return
        audio = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
        shutil.copyfileobj(member, audio, 1 << 20)
        sample.audio = audio


def _finished(sample: Sample, seen: set[str]) -> Sample:
    if sample.problem is None and sample.key in seen:
        sample.problem = DUPLICATE_KEY
    elif sample.problem is None and sample.audio is None:
        sample.problem = NO_AUDIO
    seen.add(sample.key)
    if sample.problem and sample.audio is not None:
        sample.audio.close()
        sample.audio = None
    return sample


def read_tokens(file: BinaryIO) -> Iterator[tuple[str, np.ndarray, dict]]:
    """(key, (T,) tokens, KEY.json) of a token shard's utterances, in order."""
    with tarfile.open(fileobj=file, mode="r|") as archive:
        tokens = None
        # TarWriter's order: KEY.tokens.npy, then KEY.json.
        for member in archive:
            content = archive.extractfile(member).read()
            if member.name.endswith(".tokens.npy"):
                tokens = np.load(io.BytesIO(content), allow_pickle=False)
            else:
                yield member.name.removesuffix(".json"), tokens, json.loads(content)


class TarWriter:
    """A tar whose bytes depend on its members alone: times and owners are zero."""

    def __init__(self, path: Path) -> None:
        """path: a local file."""
        self._archive = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, data: bytes) -> None:
        """Append one member."""
        self.add_file(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, source: BinaryIO, size: int) -> None:
        """Append one member of `size` bytes from a file. Raises OSError if it holds fewer."""
        info = tarfile.TarInfo(name)
        info.size = size
        self._archive.addfile(info, source)

    def add_tokens(self, key: str, tokens: np.ndarray, about: dict) -> None:
        """Append KEY.tokens.npy, (T,) as given, and KEY.json."""
        array = io.BytesIO()
        np.save(array, tokens, allow_pickle=False)
        self.add(f"{key}.tokens.npy", array.getvalue())
        self.add(f"{key}.json", json.dumps(about).encode())

    def close(self) -> None:
        """Write the archive's end. Without it the tar is a broken one."""
        self._archive.close()
