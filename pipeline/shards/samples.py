"""Audio shards, one sample at a time: WebDataset tars read from a stream.

The members of a sample mostly lie side by side. Tars in which all json comes first, or last, are
read too: json waits for its audio, and json that comes after its audio is handed over at the end.
"""

import json
import math
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from tokenizer.audio.containers.find import SOUND_ENDINGS, VIDEO_ENDINGS
from tokenizer.storage.tars import read_members
from tokenizer.storage.unpacking import Readable

# The sound of a video counts where no file of sound lies beside it.
AUDIO_ENDINGS = (*SOUND_ENDINGS, *VIDEO_ENDINGS)
# Audio members over this size wait on local disk instead of in memory.
SPOOL_BYTES = 32 << 20
# WebDataset's rule: the key is the path up to the first dot of the file's name.
KEY_AND_ENDING = re.compile(r"^((?:.*/|)[^./][^./]*)\.([^/]*)$")
# Readers of WebDataset tars skip names that begin with a folder `__x__`.
HIDDEN_FOLDER = re.compile(r"^_(_[^/]*__(?:/|$))")
# Control characters and how a report shows them: no reader takes them in a name.
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
# A json member over this is not parsed: it takes up to 30 times its size in memory.
LARGEST_JSON = 4 << 20
# Of json that lies apart from its audio, this much is kept.
MOST_WAITING_JSON = 64 << 20
# A longer audio member is not copied: two days of 16-bit sound at 16 kHz.
LARGEST_AUDIO = 6 << 30

NO_AUDIO = "no_audio"
TWO_AUDIOS = "two_audio_members"
DUPLICATE_KEY = "duplicate_key"
BAD_NAME = "bad_name"
TOO_LARGE = "too_large"
BROKEN_TAR = "broken_tar"


@dataclass
class Sample:
    """One recording of a tar, and its metadata.

    place: the number of its first member. problem: why it cannot be tokenized, one of this module's
    reasons, else None. audio: its audio member, to be closed by whoever takes the sample.
    metadata: its .json member's value. metadata_error: why a .json member has no value.
    """

    key: str
    place: int = 0
    problem: str | None = None
    audio: IO[bytes] | None = None
    metadata: object = None
    metadata_error: str | None = None


class Metadata(NamedTuple):
    """The value of a json member, or why it has none. size: of the member."""

    value: object
    error: str | None
    size: int


def read_samples(stream: Readable, late: dict[str, Metadata] | None = None) -> Iterator[Sample]:
    """The samples of a tar, in the order of their audio; a broken tar ends with BROKEN_TAR.

    A sample with two audio members, none, a key seen before, or a name that leads out of its folder
    comes with its problem; those without audio come last. Several recordings whose names are equal
    up to their first dot are samples of their own, with the other dots of the name as "_". Only
    regular audio and json members are read; nothing is executed or unpickled. late: is given the
    metadata that comes after its sample, by key. Errors of the stream itself (OSError) are passed
    on.
    """
    reader = _SampleReader({} if late is None else late)
    try:
        for place, member in enumerate(_members(stream)):
            yield from reader.take(place, member)
    except (tarfile.TarError, EOFError) as error:
        yield from reader.broken(str(error))
        return
    yield from reader.end()


class _Member(NamedTuple):
    """key: up to the first dot of its name. ending: what follows. stem: up to the last dot.

    content: None of what is no regular file. safe: whether the name can be used.
    """

    key: str
    ending: str
    stem: str
    size: int
    content: IO[bytes] | None
    safe: bool

    @property
    def kind(self) -> str:
        """The ending's last part."""
        return self.ending.rpartition(".")[2]


def _members(stream: Readable) -> Iterator[_Member]:
    """The members that can be part of a sample."""
    for info, content in read_members(stream):
        # Bytes that are not UTF-8 come as surrogates, which no Parquet file takes.
        name = info.name.encode("utf-8", "backslashreplace").decode().translate(CONTROL)
        safe = name == info.name
        name = name.removeprefix("./")
        if info.isdir() or name.rpartition("/")[2].startswith("._"):
            continue  # macOS packs a "._name" beside every file
        if match := KEY_AND_ENDING.match(HIDDEN_FOLDER.sub(r"\1", name)):
            safe = safe and not name.startswith("/") and ".." not in name.split("/")
            key, ending = match[1], match[2].lower()
            stem = match[0].rpartition(".")[0]
            yield _Member(key, ending, stem, size=info.size, content=content, safe=safe)
        elif name.lower().endswith(tuple(f".{ending}" for ending in AUDIO_ENDINGS)):
            yield _Member(name, "", name, size=0, content=None, safe=False)


class _SampleReader:
    """Members in, samples out.

    A group is the members that lie side by side and share a key. It has one recording, or several
    with stems of their own.
    """

    def __init__(self, late: dict[str, Metadata]) -> None:
        self.late = late
        # Of the group: its key, its first member, the recording that is not given yet with its
        # stem, whether one was given, whether its audio is a video's, and stems of its json.
        self.key, self.place = "", -1
        self.sample: Sample | None = None
        self.stem, self.several, self.video = "", False, False
        self.json_in_group: list[str] = []
        # Json that no sample has taken, by stem, and the bytes of it all and of `late`.
        self.json: dict[str, Metadata] = {}
        self.kept_bytes = 0
        # Stems and keys of the samples given: keys of those that have no metadata.
        self.given: dict[str, list[str]] = {}
        self.keys: set[str] = set()
        # Keys whose audio has not come, and where they began.
        self.without_audio: dict[str, int] = {}

    def take(self, place: int, member: _Member) -> Iterator[Sample]:
        """One member; gives the samples that it ends."""
        if self.place < 0 or member.key != self.key:
            yield from self._end_group()
            self.key, self.place = member.key, place
        audio = member.kind in AUDIO_ENDINGS
        if not member.safe and (audio or place == self.place):
            yield from self._begin(place, member.stem)
            self._problem(BAD_NAME)
        elif member.safe and member.content is not None and audio:
            video = member.kind in VIDEO_ENDINGS
            if self.sample is None or member.stem != self.stem or video == self.video:
                yield from self._begin(place, member.stem)
            elif video:
                return  # the recording's sound lies beside it
            self.video = video
            self._copy(member)
        elif member.safe and member.content is not None and member.kind == "json":
            yield from self._keep(place, member)

    def end(self, problem: str = NO_AUDIO) -> Iterator[Sample]:
        """The samples that are left: those without audio."""
        yield from self._end_group()
        for key, place in self.without_audio.items():
            yield Sample(key, place, problem)

    def broken(self, error: str) -> Iterator[Sample]:
        """As `end`, of a tar that breaks off. Audio that has not come may lie behind the break."""
        sample, cut, place = self.sample, "", self.place + 1
        if sample is not None and (sample.audio or sample.problem):
            taken = self.stem in self.json or self.key in self.json
            sample.metadata_error = None if taken else f"broken tar: {error}"
        elif self.place >= 0 and self.key not in self.given:
            cut, place = self.key, self.without_audio.pop(self.key, self.place)
            self.place, self.sample = -1, None
        yield from self.end(BROKEN_TAR)
        yield Sample(cut, place, BROKEN_TAR, metadata_error=error)

    def _begin(self, place: int, stem: str) -> Iterator[Sample]:
        """A recording's audio; gives the one before it in the group."""
        if self.sample is not None and stem == self.stem:
            self._problem(TWO_AUDIOS)
            return
        if self.sample is not None:
            self.sample.key, self.several = _renamed(self.stem), True
            yield self._finished(self.sample)
        first = self.without_audio.pop(self.key, self.place)
        key = _renamed(stem) if self.several else self.key
        self.sample, self.stem = Sample(key, place if self.several else first), stem

    def _problem(self, reason: str) -> None:
        assert self.sample is not None
        self.sample.problem = self.sample.problem or reason
        if self.sample.audio is not None:
            self.sample.audio.close()
            self.sample.audio = None

    def _copy(self, member: _Member) -> None:
        """Copy the audio into its sample, unless that has a problem."""
        if self.sample is None or self.sample.problem or member.content is None:
            return
        if member.size > LARGEST_AUDIO:
            self._problem(TOO_LARGE)
            return
        if self.sample.audio is not None:
            self.sample.audio.close()
        audio = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
        shutil.copyfileobj(member.content, audio, 1 << 20)
        self.sample.audio = audio

    def _keep(self, place: int, member: _Member) -> Iterator[Sample]:
        """Keep a json member for its sample, which may be given already."""
        of_group = member.stem == self.key and (self.several or self.sample is not None)
        keys = None if of_group else self.given.get(member.stem)
        if keys is not None and not keys:
            yield Sample(member.key, place, DUPLICATE_KEY)
            return
        metadata = _parsed(member)
        if self.kept_bytes + metadata.size > MOST_WAITING_JSON:
            error = "its json lies apart from its audio, with over 64 MB of other json between them"
            metadata = Metadata(None, error, 0)
        self.kept_bytes += metadata.size
        if keys:
            self.late.update(dict.fromkeys(keys, metadata))
            left = [key for key in self.given[member.key] if key not in keys]
            self.given[member.stem], self.given[member.key] = [], left
        else:
            self.json[member.stem] = metadata
            self.json_in_group.append(member.stem)

    def _finished(self, sample: Sample) -> Sample:
        metadata = self._pop_json(self.stem)
        if metadata is None and self.key in self.json:
            metadata = self.json[self.key]  # of all recordings of the group
        if metadata is not None:
            sample.metadata, sample.metadata_error = metadata.value, metadata.error
        if sample.problem is None and sample.key in self.keys:
            self._problem(DUPLICATE_KEY)
        self.keys.add(sample.key)
        for name in {self.stem, self.key}:
            self.given.setdefault(name, []).extend([sample.key] if metadata is None else [])
        self.sample = None
        return sample

    def _end_group(self) -> Iterator[Sample]:
        if self.place < 0:
            return
        if self.sample is not None:
            yield self._finished(self.sample)
        if self.key in self.given:
            if self.key in self.json:
                self.late.update(dict.fromkeys(self.given[self.key], self.json[self.key]))
                self.given[self.key] = []
            for stem in self.json_in_group:  # no recording's, or taken by all of them
                self._pop_json(stem)
        else:
            self.without_audio.setdefault(self.key, self.place)
        self.place, self.several, self.json_in_group = -1, False, []

    def _pop_json(self, stem: str) -> Metadata | None:
        metadata = self.json.pop(stem, None)
        self.kept_bytes -= metadata.size if metadata else 0
        return metadata


def _renamed(stem: str) -> str:
    """A key for a recording that shares its name up to the first dot with others."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.replace(".", "_")


def _parsed(member: _Member) -> Metadata:
    assert member.content is not None
    if member.size > LARGEST_JSON:
        return Metadata(None, f"over {LARGEST_JSON >> 20} MB of json: {member.size:,} bytes", 0)
    text = member.content.read()
    try:
        # Python's json takes NaN, Infinity and 1e999, which would make the output invalid JSON.
        value = json.loads(text, parse_constant=lambda _: None, parse_float=finite)
    except (ValueError, RecursionError) as error:
        return Metadata(None, f"not JSON: {error}", 0)
    return Metadata(value, None, len(text))


def finite(text: str) -> float | None:
    """A number of a json text, or None where it is too large for a float."""
    value = float(text)
    return value if math.isfinite(value) else None
