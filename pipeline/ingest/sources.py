"""What ingest reads: sources, each a file that one task reads once, and what is wanted of it."""

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizer.storage.folder import check_name

# Kinds of sources: a file of audio; a tar of audio, as jobs/tokenize.py reads it; a Parquet table
# with a column of audio.
AUDIO, TAR, PARQUET = "audio", "tar", "parquet"

# Reasons for which an entry of a manifest is rejected before its audio is read.
BAD_LINE = "bad_line"
BAD_KEY = "bad_key"
BAD_SPAN = "bad_span"
COMMAND = "command"
OUTSIDE = "outside_root"
DUPLICATE_KEY = "duplicate_key"
# A file that is not there, or is a dead link or no regular file.
MISSING_FILE = "missing_file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What is wanted of one audio file: all of it, or a part.

    key: of the sample. start, end: in seconds; an end of None is the file's. channel: from 0; None
    leaves it to the settings. metadata: a JSON object, as text. place: where the entry stands, such
    as "train.jsonl:17"; "" of a loose file. problem: why it cannot be used, or None.
    """

    key: str
    start: float = 0.0
    end: float | None = None
    channel: int | None = None
    metadata: str = "{}"
    place: str = ""
    problem: str | None = None

    @property
    def all_of_it(self) -> bool:
        """Whether the file is wanted from its start to its end, of one channel or of all."""
        return self.start == 0.0 and self.end is None

    @property
    def whole(self) -> bool:
        """Whether all channels of the file are wanted, from its start to its end."""
        return self.all_of_it and self.channel is None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file that one task reads from its start to its end, once.

    kind: AUDIO, TAR or PARQUET. path: below the inputs' common folder, for records. size: in bytes,
    -1 if not known. version: as `version_of`. entries: what is wanted of an audio file. beside:
    {ending: URL} of files with the audio's name and another ending. prefix: of the keys of a tar or
    a table. audio_root: of a table, the folder of the paths in it; None is its own. problem: why it
    cannot be read at all, which rejects its entries, or None.
    """

    kind: str
    path: str
    url: str
    size: int
    version: str = ""
    entries: tuple[Entry, ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    audio_root: str | None = None
    problem: str | None = None


def as_json(value: Mapping[str, Any]) -> str:
    """An object as JSON text without NaN or Infinity, which JSON has not; they become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value


def key_of(path: str) -> str:
    """A sample's key for a path without its ending: a key ends at its first dot, so dots are "_".

    Raises ValueError for a path that leads out of its folder or has control characters.
    """
    folder, name = posixpath.split(path)
    key = posixpath.join(folder, name.replace(".", "_").lstrip("_") or "_")
    # Readers of WebDataset tars skip names that begin with a folder `__x__`.
    key = re.sub(r"^__([^/]*)__(?=/|$)", r"_\1__", key)
    check_name(key)
    return key
