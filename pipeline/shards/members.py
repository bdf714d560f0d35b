"""The members of an audio tar that can be part of a sample, named by WebDataset's rule."""

import re
from collections.abc import Iterator
from typing import IO, NamedTuple

from tokenizer.audio.containers.find import SOUND_ENDINGS, VIDEO_ENDINGS
from tokenizer.storage.tars import read_members
from tokenizer.storage.unpacking import Readable

# The sound of a video counts where no file of sound lies beside it.
AUDIO_ENDINGS = (*SOUND_ENDINGS, *VIDEO_ENDINGS)
# WebDataset's rule: the key is the path up to the first dot of the file's name.
KEY_AND_ENDING = re.compile(r"^((?:.*/|)[^./][^./]*)\.([^/]*)$")
# Readers of WebDataset tars skip names that begin with a folder `__x__`.
HIDDEN_FOLDER = re.compile(r"^_(_[^/]*__(?:/|$))")
# Control characters and how a report shows them: no reader takes them in a name.
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


class Member(NamedTuple):
    """name: in the tar. key: up to the name's first dot. ending: what follows, in small letters.
    stem: up to the last dot.

    content: None of what is no regular file. safe: whether the name can be used.
    """

    name: str
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


def tar_members(stream: Readable) -> Iterator[Member]:
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
            yield Member(
                match[0], key, ending, stem=stem, size=info.size, content=content, safe=safe
            )
        elif name.lower().endswith(tuple(f".{ending}" for ending in AUDIO_ENDINGS)):
            yield Member(name, name, "", stem=name, size=0, content=None, safe=False)
