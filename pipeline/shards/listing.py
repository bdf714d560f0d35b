"""What one input value names: a file, a folder, a glob or a brace range, on any filesystem.

A path that exists is taken as it is, whatever letters it has. Links are followed, to files and to
folders: the Hugging Face cache and many mounts consist of them. fsspec's own listings of a local
disk leave them out.
"""

import glob
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from tokenizer.errors import UsageError
from tokenizer.storage.folder import filesystem
from tokenizer.storage.retries import refuse_empty_listings

# fsspec's infos of files, by path.
Infos = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class InputFile:
    """A file that an input names. url: with "file://" or its store's scheme. size: in bytes."""

    url: str
    size: int
    version: str


@dataclass
class LeftOut:
    """What lies in a folder, or matches a glob, and is not taken.

    endings: how many files have each ending that is none of those asked for. unusable: paths of
    dead links and of what is no regular file; where it is None these are an error.
    """

    endings: Counter[str] = field(default_factory=Counter)
    unusable: list[str] | None = None


def version_of(info: dict[str, Any]) -> tuple[int, str]:
    """(bytes, ETag or time of change) of a file, from fsspec's info; -1 and "" if not known."""
    size = info.get("size")
    marks = (info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified"))
    mark = next((str(mark).strip('"') for mark in marks if mark), "")
    return (-1 if size is None else int(size)), mark


def list_files(
    value: str, endings: tuple[str, ...], left_out: LeftOut | None = None
) -> Iterator[tuple[str, InputFile]]:
    """(base folder's URL, file) of each file that one input value names, sorted.

    endings: of the files that a folder is searched for. left_out: is given the rest. Raises
    UsageError when the value, or one of a brace range, names nothing; errors of the store are
    passed on.
    """
    listings: dict[str, Infos] = {}
    left_out = left_out or LeftOut()
    patterns = [value] if _exists(value) else _expanded(value)
    missing = []
    for number, pattern in enumerate(patterns):
        fs, path = filesystem(pattern)
        path = path.rstrip("/")
        refuse_empty_listings(fs)
        if number == 0:
            fs.invalidate_cache()  # others may have written since it was listed last
        try:
            if len(patterns) > 1 and not has_magic(path):
                base, infos = _from_listing(fs, path, listings)
            else:
                base, infos = _infos(fs, path, endings, left_out=left_out)
        except FileNotFoundError:
            base, infos = path, {}
        if not infos and not left_out.unusable:
            missing.append(pattern)
        for path, info in sorted(infos.items()):
            if info["type"] != "file":
                raise UsageError(f"{path} is no regular file", "leave it out", value=value)
            size, version = version_of(info)
            yield _url(fs, base), InputFile(_url(fs, path), max(size, 0), version)
    if missing:
        what = "matches nothing" if len(missing) == len(patterns) else f"lacks {missing[0]}"
        kinds = f" of {', '.join(endings)}" if any(endings) else ""
        raise UsageError(f"it {what}", f"give a file, folder or glob{kinds}", value=value)


def check_outside(values: list[str], output: str) -> None:
    """Raises UsageError for an output in a folder that is searched for inputs.

    What one run writes there, the next one would read.
    """
    out_fs, out = filesystem(output)
    for value in values:
        fs, path = filesystem(value)
        recursive, folder = "**" in path, path.rstrip("/")
        if recursive:
            above, pattern = _start(fs, path)
            folder = (above + re.split(r"[*?\[{]", pattern)[0]).rpartition("/")[0]
        if type(fs) is not type(out_fs) or not (recursive or fs.isdir(path)):
            continue
        if isinstance(fs, LocalFileSystem):
            folder, out = os.path.realpath(folder), os.path.realpath(out)
        if f"{out.rstrip('/')}/".startswith(f"{folder}/"):
            raise UsageError(
                f"it lies in the input {value}, where a later run would read it",
                "give a folder beside the input",
                value=output,
                argument="output",
            )


def has_magic(path: str) -> bool:
    """Whether a path is a glob."""
    return any(letter in path for letter in "*?[")


def _exists(value: str) -> bool:
    """Whether there is something under this very name; asked only of what could be a pattern."""
    if not has_magic(value) and "{" not in value:
        return True
    fs, path = filesystem(value)
    if isinstance(fs, LocalFileSystem):
        return os.path.lexists(path)
    return "*" not in value and fs.exists(path)


def _expanded(value: str) -> list[str]:
    try:
        return list(braceexpand(value))
    except UnbalancedBracesError as error:
        raise UsageError("its braces do not match", "close them", value=value) from error


def _infos(fs: Any, path: str, endings: tuple[str, ...], *, left_out: LeftOut) -> tuple[str, Infos]:
    """The base folder, and the files, of a path that is no part of a range."""
    local = isinstance(fs, LocalFileSystem)
    if has_magic(path) and not (os.path.lexists(path) if local else fs.exists(path)):
        folder, pattern = _start(fs, path)
        base = posixpath.dirname(folder + re.split(r"[*?\[]", pattern)[0])
        path = glob.escape(folder) + pattern
        found = _local_glob(path, base, left_out) if local else fs.glob(path, detail=True)
        return base, {p: i for p, i in found.items() if i["type"] != "directory"}
    info = _stat(path) if local else fs.info(path)
    if info["type"] == "file" and not info.get("size") and not local:
        # A store's "folder" can be an empty object of the folder's name.
        below = fs.find(f"{path}/", detail=True)
        info = {"type": "directory"} if below else info
    if info["type"] != "directory":
        return posixpath.dirname(path), {path: info}
    if local:
        return path, _stats(_wanted(_walk(path), endings, left_out), left_out)
    found = fs.find(path, detail=True)
    names = _wanted((p for p in found if p[-1] != "/"), endings, left_out)
    return path, {name: found[name] for name in names}


def _wanted(paths: Iterable[str], endings: tuple[str, ...], left_out: LeftOut) -> Iterator[str]:
    """The paths that have one of the endings."""
    for path in paths:
        if path.lower().endswith(endings):
            yield path
        else:
            left_out.endings[posixpath.splitext(path)[1].lower() or "no ending"] += 1


def _from_listing(fs: Any, path: str, listings: dict[str, Infos]) -> tuple[str, Infos]:
    """One file of a range: a thousand tars cost one listing of their folder, not a thousand."""
    base = posixpath.dirname(path)
    if isinstance(fs, LocalFileSystem):
        return base, {path: _stat(path)} if os.path.lexists(path) else {}
    if base not in listings:
        listings[base] = {info["name"]: info for info in fs.ls(base, detail=True)}
    return base, {path: listings[base][path]} if path in listings[base] else {}


def _start(fs: Any, path: str) -> tuple[str, str]:
    """A glob's first folders that exist under these very names, with a "/", and the rest.

    In a store, whose folders are parts of names, all of it is the rest.
    """
    if not isinstance(fs, LocalFileSystem):
        return "", path
    folder, _, pattern = path.rpartition("/")
    while folder and not os.path.isdir(folder):
        folder, _, name = folder.rpartition("/")
        pattern = f"{name}/{pattern}"
    return (f"{folder}/" if folder or path[0] == "/" else ""), pattern


def _local_glob(path: str, base: str, left_out: LeftOut) -> Infos:
    if "**" not in path:
        return _stats(glob.iglob(path, include_hidden=True), left_out)
    wanted = re.compile(glob_translate(path))
    return _stats((p for p in _walk(base) if wanted.match(p)), left_out)


def _walk(folder: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """All files below a local folder, through links; a link to a folder above is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                yield from _walk(entry.path, above | {real})
            else:
                yield entry.path


def _stats(paths: Iterable[str], left_out: LeftOut) -> Infos:
    """The infos of local files."""
    infos: Infos = {}
    for path in paths:
        try:
            infos[path] = _stat(path)
        except UsageError:
            if left_out.unusable is None:
                raise
            left_out.unusable.append(path)
    return infos


def _stat(path: str) -> dict[str, Any]:
    """The info of a local file or folder, or of what a link leads to.

    Raises UsageError for a dead link, and for what is neither file nor folder.
    """
    try:
        info = LocalFileSystem().info(path)
    except FileNotFoundError as error:
        if os.path.islink(path):
            problem = f"{path} is a link to {os.readlink(path)}, which is not there"
            raise UsageError(problem, "mend or remove the link") from error
        raise
    if info["type"] == "other":
        raise UsageError(f"{path} is no regular file", "leave it out")
    return info


def _url(fs: Any, path: str) -> str:
    # A local "a/../b" is the same folder as "b"; in a store it is a name of its own.
    path = posixpath.normpath(path) if isinstance(fs, LocalFileSystem) else path
    return fs.unstrip_protocol(path)
