"""Audio shards, one sample at a time: WebDataset tars read from a stream."""

import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from tokenizer.storage.tars import Readable, read_members

AUDIO_ENDINGS = ("flac", "wav", "ogg", "opus", "mp3")
# Audio members over this size wait on local disk instead of in memory.
SPOOL_BYTES = 32 << 20
# WebDataset's rule: the key is the path up to the first dot of the file's name.
KEY_AND_ENDING = re.compile(r"^((?:.*/|)[^./][^./]*)\.([^/]*)$")

NO_AUDIO = "no_audio"
TWO_AUDIOS = "two_audio_members"
DUPLICATE_KEY = "duplicate_key"
BAD_NAME = "bad_name"
BROKEN_TAR = "broken_tar"


@dataclass
class Sample:
    """Members of one key that lie together in a tar.

    problem: why it cannot be tokenized, one of this module's reasons, else None.
    audio: its one audio member, to be closed by whoever takes the sample.
    metadata: its .json member's value. metadata_error: why a .json member has no value.
    """

    key: str
    problem: str | None = None
    audio: IO[bytes] | None = None
    metadata: object = None
    metadata_error: str | None = None


def read_samples(stream: Readable) -> Iterator[Sample]:
    """The samples of a tar, in order; a broken tar ends with a sample of problem BROKEN_TAR.

    A sample with several audio members, none, a key seen before, or a name that leads out of its
    folder comes with its problem. Only regular audio and json members are read; nothing is executed
    or unpickled. Errors of the stream itself (OSError) are passed on.
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


def _members(stream: Readable) -> Iterator[tuple[str, str, IO[bytes] | None, bool]]:
    """(key, ending, content if a regular file, whether the name is safe) of samples' members."""
    for info, content in read_members(stream):
        # Bytes that are not UTF-8 come as surrogates, which no Parquet file takes.
        name = info.name.encode("utf-8", "backslashreplace").decode()
        utf8 = name == info.name
        name = name.removeprefix("./")
        if info.isdir() or name.rpartition("/")[2].startswith("._"):
            continue  # macOS packs a "._name" beside every file
        match = KEY_AND_ENDING.match(name)
        if match:
            safe = utf8 and not name.startswith("/") and ".." not in name.split("/")
            yield match[1], match[2].lower(), content, safe
        elif name.lower().endswith(AUDIO_ENDINGS):
            yield name, "", None, False


def _take(sample: Sample, ending: str, member: IO[bytes]) -> None:
    """Read a member into its sample, if it is audio or json."""
    if ending == "json":
        try:
            # Python's json takes NaN and Infinity, which would make the output invalid JSON.
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
