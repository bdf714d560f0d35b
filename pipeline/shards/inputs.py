"""The inputs of a job: the files that they name, on any filesystem, and the shards among them."""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.shards.listing import InputFile, LeftOut, list_files
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import check_name, public_url

SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Shard:
    """One input tar. name: its path below the inputs' common folder, without its ending.

    size: in bytes. version: its ETag or time of change, as `version_of`; "" if not known.
    """

    name: str
    url: str
    size: int
    version: str = ""


def find_files(
    values: list[str], endings: tuple[str, ...], left_out: LeftOut | None = None
) -> tuple[str, dict[str, InputFile]]:
    """All files that the inputs name: their common folder, and {path below it: file}.

    values: files, folders (searched to any depth for `endings`, links included), globs and brace
    ranges, on any filesystem; a path that exists is taken as it is. left_out: is given what is not
    taken. Raises UsageError when one matches nothing, cannot be listed, or names a file that cannot
    be an output's name.
    """
    bases: list[str] = []
    found: dict[str, InputFile] = {}
    for value in values:
        try:
            for base, file in list_files(value, endings, left_out):
                bases.append(base)
                found[file.url] = file
        except UsageError as error:
            error.value = error.value or value
            raise
        except Exception as error:  # whatever a store raises, this input cannot be listed
            raise UsageError(
                one_line(error), "check the path, the bucket and your credentials", value=value
            ) from error
    # Inputs on two filesystems have no common folder: paths then begin with the bucket or root.
    schemes = {_scheme(base) for base in bases}
    if not bases:
        return "", {}
    root = posixpath.commonpath([_path(base) for base in bases]) if len(schemes) == 1 else "/"
    paths = {_below(root, file.url): file for file in found.values()}
    return (f"{schemes.pop()}://{root}" if len(schemes) == 1 else ""), dict(sorted(paths.items()))


def find_shards(values: list[str], left_out: LeftOut | None = None) -> tuple[str, list[Shard]]:
    """All input tars, sorted by name, and the folder their names are relative to.

    left_out: is given the files of folders that are no tars. Raises UsageError as `find_files`
    does, and when two would share a name.
    """
    root, files = find_files(values, SHARD_ENDINGS, left_out)
    shards: dict[str, Shard] = {}
    for path, file in files.items():
        name = re.sub(r"(\.tar|\.tar\.(gz|bz2|xz)|\.tgz)$", "", path)
        if name in shards:
            raise UsageError(
                f"its output would have the same name as that of {shards[name].url}",
                "rename one",
                value=file.url,
            )
        shards[name] = Shard(name, file.url, size=file.size, version=file.version)
    return root, sorted(shards.values(), key=lambda shard: shard.name)


def _below(root: str, url: str) -> str:
    """A file's path below the inputs' common folder. Raises UsageError for what is no name."""
    path = _path(url)
    name = path[len(root.rstrip("/")) + 1 :]
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(
            str(error), "rename it, or leave it out", value=repr(public_url(url))[1:-1]
        ) from error
    return name


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _path(url: str) -> str:
    """Bucket and key, or local path, with a leading "/"; no password, no signature."""
    return "/" + public_url(url).partition("://")[2].lstrip("/")


def total_size(shards: Iterable[Shard]) -> int:
    """Bytes of all shards."""
    return sum(shard.size for shard in shards)
