"""Audio shards, one sample at a time: WebDataset tars read from a stream.

The members of a sample mostly lie side by side. Tars in which all json comes first, or last, are
read too: json waits for its audio, and json that comes after its audio is handed over at the end.
"""

import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from pipeline.shards.members import AUDIO_ENDINGS, Member, tar_members
from pipeline.shards.metadata import Metadata, parse_metadata
from tokenizer.audio.containers.find import VIDEO_ENDINGS
from tokenizer.storage.unpacking import Readable

# Audio members over this size wait on local disk instead of in memory.
SPOOL_BYTES = 32 << 20
# Of json that lies apart from its audio, this much is kept.
MOST_WAITING_JSON = 64 << 20
# What lies beside a recording is kept up to this size in all.
MOST_BESIDE = 1 << 20
# A longer audio member is not copied: two days of 16-bit sound at 16 kHz.
LARGEST_AUDIO = 6 << 30

# Endings that token shards have for themselves.
RESERVED = ("json", "tokens.npy")

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
    ending: of the audio member, such as "flac". metadata: its .json member's value.
    metadata_error: why a .json member has no value. beside: {ending: content} of the other members
    that lie beside it and share its key.
    """

    key: str
    place: int = 0
    problem: str | None = None
    audio: IO[bytes] | None = None
    ending: str = ""
    metadata: object = None
    metadata_error: str | None = None
    beside: dict[str, bytes] = field(default_factory=dict)


def read_samples(
    stream: Readable,
    late: dict[str, Metadata] | None = None,
    left_beside: Counter[str] | None = None,
) -> Iterator[Sample]:
    """The samples of a tar, in the order of their audio; a broken tar ends with BROKEN_TAR.

    A sample with two audio members, none, a key seen before, or a name that leads out of its folder
    comes with its problem; those without audio come last. Several recordings whose names are equal
    up to their first dot are samples of their own, with the other dots of the name as "_". Only
    regular audio and json members are read; nothing is executed or unpickled. late: is given the
    metadata that comes after its sample, by key. left_beside: is
    given how many members of each ending are not kept: over 1 MB together, or apart from their
    audio. Errors of the stream itself (OSError) are passed on.
    """
    left_beside = Counter() if left_beside is None else left_beside
    reader = _SampleReader({} if late is None else late, left_beside)
    try:
        for place, member in enumerate(tar_members(stream)):
            yield from reader.take(place, member)
    except (tarfile.TarError, EOFError) as error:
        yield from reader.broken(str(error))
        return
    yield from reader.end()


class _SampleReader:
    """Members in, samples out.

    A group is the members that lie side by side and share a key. It has one recording, or several
    with stems of their own.
    """

    def __init__(self, late: dict[str, Metadata], left_beside: Counter[str]) -> None:
        self.late, self.left_beside = late, left_beside
        # Of the group: its key, its first member, the recording that is not given yet with its
        # stem, whether one was given, whether its audio is a video's, and stems of its json.
        self.key, self.place = "", -1
        self.sample: Sample | None = None
        self.stem, self.several, self.video = "", False, False
        self.json_in_group: list[str] = []
        # Its other members, by name.
        self.beside: dict[str, bytes] = {}
        # Json that no sample has taken, by stem, and the bytes of it all and of `late`.
        self.json: dict[str, Metadata] = {}
        self.kept_bytes = 0
        # Stems and keys of the samples given: keys of those that have no metadata.
        self.given: dict[str, list[str]] = {}
        self.keys: set[str] = set()
        # Keys whose audio has not come, and where they began.
        self.without_audio: dict[str, int] = {}

    def take(self, place: int, member: Member) -> Iterator[Sample]:
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
        elif member.safe and member.content is not None:
            self._keep_beside(member)

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

    def _copy(self, member: Member) -> None:
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
        self.sample.audio, self.sample.ending = audio, member.kind

    def _keep_beside(self, member: Member) -> None:
        """Keep another member of the group, such as a transcript, for its recording."""
        assert member.content is not None
        kept = sum(map(len, self.beside.values()))
        if member.ending in RESERVED or kept + member.size > MOST_BESIDE:
            self.left_beside[member.kind] += 1
        else:
            self.beside[member.name] = member.content.read()

    def _take_beside(self, sample: Sample) -> None:
        """Give a recording what lies beside it: of its stem, or else of all of the group."""
        for name in list(self.beside):
            ending = name.removeprefix(f"{self.stem}.")
            if ending != name:
                sample.beside[ending] = self.beside.pop(name)
            elif name.startswith(f"{self.key}.") and not self.several:
                sample.beside[name[len(self.key) + 1 :]] = self.beside.pop(name)

    def _keep(self, place: int, member: Member) -> Iterator[Sample]:
        """Keep a json member for its sample, which may be given already."""
        of_group = member.stem == self.key and (self.several or self.sample is not None)
        keys = None if of_group else self.given.get(member.stem)
        if keys is not None and not keys:
            yield Sample(member.key, place, DUPLICATE_KEY)
            return
        assert member.content is not None
        metadata = parse_metadata(member.content, member.size)
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
        self._take_beside(sample)
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
        self.left_beside.update(name.rpartition(".")[2].lower() for name in self.beside)
        self.beside = {}

    def _pop_json(self, stem: str) -> Metadata | None:
        metadata = self.json.pop(stem, None)
        self.kept_bytes -= metadata.size if metadata else 0
        return metadata


def _renamed(stem: str) -> str:
    """A key for a recording that shares its name up to the first dot with others."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.replace(".", "_")
