"""The inputs of a job: the files that they name, on any filesystem, and the shards among them."""

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]
from fsspec.implementations.local import LocalFileSystem

from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import filesystem

SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Shard:
    """One input tar. name: its path below the inputs' common folder, without its ending.

    size: in bytes.
    """

    name: str
    url: str
    size: int


def find_files(
    values: list[str], endings: tuple[str, ...]
) -> tuple[str, dict[str, tuple[str, int]]]:
    """All files that the inputs name: their common folder, and {path below it: (url, bytes)}.

    values: files, folders (searched to any depth for `endings`), globs and brace ranges, on any
    filesystem. Raises UsageError when one matches nothing or cannot be listed.
    """
    bases: list[str] = []
    found: dict[str, int] = {}
    for value in values:
        try:
            patterns = list(braceexpand(value))
        except UnbalancedBracesError as error:
            raise UsageError("its braces do not match", "close them", value=value) from error
        for base, url, size in _expand(value, patterns, endings):
            bases.append(base)
            found[url] = size
    # Inputs on two filesystems have no common folder: paths then begin with the bucket or root.
    schemes = {_scheme(base) for base in bases}
    root = posixpath.commonpath([_path(base) for base in bases]) if len(schemes) == 1 else "/"
    paths = {posixpath.relpath(_path(url), root): (url, size) for url, size in found.items()}
    return (f"{schemes.pop()}://{root}" if len(schemes) == 1 else ""), dict(sorted(paths.items()))


def find_shards(values: list[str]) -> tuple[str, list[Shard]]:
    """All input tars, sorted by name, and the folder their names are relative to.

    Raises UsageError as `find_files` does, and when two would share a name.
    """
    root, files = find_files(values, SHARD_ENDINGS)
    shards: dict[str, Shard] = {}
    for path, (url, size) in files.items():
        name = re.sub(r"(\.tar|\.tar\.gz|\.tgz)$", "", path)
        if name in shards:
            raise UsageError(
                f"its output would have the same name as that of {shards[name].url}",
                "rename one",
                value=url,
            )
        shards[name] = Shard(name, url, size)
    return root, sorted(shards.values(), key=lambda shard: shard.name)


def _expand(
    value: str, patterns: list[str], endings: tuple[str, ...]
) -> Iterator[tuple[str, str, int]]:
    """(base folder, url, size) of each file that one input value names."""
    listings: dict[str, dict[str, dict]] = {}
    missing = []
    for pattern in patterns:
        fs, path = filesystem(pattern)
        path = path.rstrip("/")
        try:
            if any(c in path for c in "*?["):
                base = posixpath.dirname(re.split(r"[*?\[]", path)[0])
                matches = fs.glob(path, detail=True)
            elif len(patterns) > 1:
                # A range of a thousand tars costs one listing of their folder, not a thousand.
                base = posixpath.dirname(path)
                if base not in listings:
                    listings[base] = {i["name"]: i for i in fs.ls(base, detail=True)}
                matches = {path: listings[base][path]} if path in listings[base] else {}
            else:
                info = fs.info(path)
                folder = info["type"] == "directory"
                base = path if folder else posixpath.dirname(path)
                matches = fs.find(path, detail=True) if folder else {path: info}
                if folder:
                    matches = {p: i for p, i in matches.items() if p.lower().endswith(endings)}
        except FileNotFoundError:
            matches = {}
        except Exception as error:  # whatever a store raises, this input cannot be listed
            raise UsageError(
                one_line(error), "check the path, the bucket and your credentials", value=value
            ) from error
        files = {p: i for p, i in matches.items() if i["type"] == "file"}
        if not files:
            missing.append(pattern)
        for path, info in sorted(files.items()):
            yield _url(fs, base), _url(fs, path), int(info["size"] or 0)
    if missing:
        what = "matches nothing" if len(missing) == len(patterns) else f"lacks {missing[0]}"
        kinds = ", ".join(endings)
        raise UsageError(f"it {what}", f"give a file, folder or glob of {kinds}", value=value)


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _url(fs: Any, path: str) -> str:
    # A local "a/../b" is the same folder as "b"; in a store it is a name of its own.
    path = posixpath.normpath(path) if isinstance(fs, LocalFileSystem) else path
    return fs.unstrip_protocol(path)


def _path(url: str) -> str:
    """Bucket and key, or local path, with a leading "/"."""
    return "/" + url.partition("://")[2].lstrip("/")


def total_size(shards: Iterable[Shard]) -> int:
    """Bytes of all shards."""
    return sum(shard.size for shard in shards)
