"""Files anywhere fsspec reaches: finding input shards, fetching folders, publishing whole files."""

import atexit
import json
import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import fsspec
from braceexpand import UnbalancedBracesError, braceexpand
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import UsageError

SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")
# What ships with the project: encoders and tokenizers, a folder each.
PRETRAINED = Path(__file__).resolve().parent.parent / "tokenizer" / "pretrained"


@dataclass(frozen=True)
class Shard:
    """One input tar. name: its path below the inputs' common folder, without its ending."""

    name: str
    url: str
    size: int


def filesystem(flag: str, url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem and path of a URL. Raises UsageError for a scheme that fsspec does not know.

    Nothing but fsspec opens a path here: a `pipe:` URL, which webdataset would run in a shell, is
    refused like any unknown scheme.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme and scheme[1].lower() not in fsspec.available_protocols():
        raise UsageError(
            flag,
            url,
            f"'{scheme[1]}:' is no filesystem",
            "give a path or a URL such as s3://bucket/x",
        )
    try:
        return url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(
            flag, url, _one_line(error), "install what it names or mend the URL"
        ) from error


def find_files(
    flag: str, values: list[str], endings: tuple[str, ...]
) -> tuple[str, dict[str, tuple[str, int]]]:
    """All files that the inputs name: their common folder, and {path below it: (url, bytes)}.

    values: files, folders (searched to any depth for `endings`), globs and brace ranges, on any
    filesystem. Raises UsageError when one matches nothing or cannot be listed.
    """
    bases, found = [], {}
    for value in values:
        try:
            patterns = list(braceexpand(value))
        except UnbalancedBracesError as error:
            raise UsageError(flag, value, "its braces do not match", "close them") from error
        for base, url, size in _expand(flag, value, patterns, endings):
            bases.append(base)
            found[url] = size
    # Inputs on two filesystems have no common folder: paths then begin with the bucket or root.
    schemes = {_scheme(base) for base in bases}
    root = posixpath.commonpath([_path(base) for base in bases]) if len(schemes) == 1 else "/"
    paths = {posixpath.relpath(_path(url), root): (url, size) for url, size in found.items()}
    return (f"{schemes.pop()}://{root}" if len(schemes) == 1 else ""), dict(sorted(paths.items()))


def find_shards(flag: str, values: list[str]) -> tuple[str, list[Shard]]:
    """All input tars, sorted by name, and the folder their names are relative to.

    Raises UsageError as `find_files` does, and when two would share a name.
    """
    root, files = find_files(flag, values, SHARD_ENDINGS)
    shards: dict[str, Shard] = {}
    for path, (url, size) in files.items():
        name = re.sub(r"(\.tar|\.tar\.gz|\.tgz)$", "", path)
        if name in shards:
            raise UsageError(
                flag, url, f"its output would lie where {shards[name].url}'s does", "rename one"
            )
        shards[name] = Shard(name, url, size)
    return root, sorted(shards.values(), key=lambda shard: shard.name)


def _expand(flag: str, value: str, patterns: list[str], endings: tuple[str, ...]):
    """(base folder, url, size) of each file that one input value names."""
    listings: dict[str, dict[str, dict]] = {}
    missing = []
    for pattern in patterns:
        fs, path = filesystem(flag, pattern)
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
        except Exception as error:  # whatever a store raises, it is this argument it cannot serve
            raise UsageError(
                flag, value, _one_line(error), "check the path, the bucket and your credentials"
            ) from error
        files = {p: i for p, i in matches.items() if i["type"] == "file"}
        if not files:
            missing.append(pattern)
        for path, info in sorted(files.items()):
            yield _url(fs, base), _url(fs, path), int(info["size"] or 0)
    if missing:
        what = "matches nothing" if len(missing) == len(patterns) else f"lacks {missing[0]}"
        kinds = ", ".join(endings)
        raise UsageError(flag, value, f"it {what}", f"give a file, folder or glob of {kinds}")


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _url(fs: fsspec.AbstractFileSystem, path: str) -> str:
    # A local "a/../b" is the same folder as "b"; in a store it is a name like any other.
    path = posixpath.normpath(path) if isinstance(fs, LocalFileSystem) else path
    return fs.unstrip_protocol(path)


def _path(url: str) -> str:
    """Bucket and key, or local path, always from a "/"."""
    return "/" + url.partition("://")[2].lstrip("/")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return f"{type(error).__name__}: {text}"[:300]


def fetch_folder(flag: str, value: str, kind: str, hub: bool = False) -> Path:
    """A folder as a local one: of a path, a URL, a NAME that ships or, with `hub`, a hub id.

    kind: what should be there, for the message. Raises UsageError when there is no such folder.
    """
    if re.fullmatch(r"[\w-]+", value) and not Path(value).exists():
        if (PRETRAINED / value).is_dir():
            return PRETRAINED / value
        names = ", ".join(sorted(folder.name for folder in PRETRAINED.glob("*/")))
        raise UsageError(
            flag,
            value,
            "there is no such folder",
            f"give the folder or URL of {kind}, or of {names}",
        )
    if not Path(value).exists() and hub and re.fullmatch(r"[\w.-]+/[\w.-]+", value):
        return _fetch_from_hub(flag, value)
    fs, path = filesystem(flag, value)
    remedy = f"give the folder or URL of {kind}"
    try:
        if not fs.isdir(path):
            raise UsageError(flag, value, "there is no such folder", remedy)
        if isinstance(fs, LocalFileSystem):
            return Path(path)
        local = tempfile.mkdtemp(prefix="wavmill-")
        atexit.register(shutil.rmtree, local, ignore_errors=True)
        fs.get(path.rstrip("/") + "/", local, recursive=True)
    except UsageError:
        raise
    except Exception as error:  # as above: any store, any reason, but this argument
        raise UsageError(flag, value, _one_line(error), remedy) from error
    return Path(local)


def _fetch_from_hub(flag: str, value: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    names = ["config.json", "preprocessor_config.json"]
    try:
        folder = Path(snapshot_download(value, allow_patterns=[*names, "*.safetensors"]))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(value, allow_patterns=[*names, "pytorch_model.bin"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UsageError(
            flag, value, _one_line(error), "give a local folder, or a hub id this machine can reach"
        ) from error
    return folder


class Folder:
    """An output folder on any filesystem, in which a file appears whole or not at all."""

    def __init__(self, flag: str, url: str):
        """Raises UsageError for an unknown scheme."""
        self.flag, self.url = flag, url
        self.fs, root = filesystem(flag, url)
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """Where a file of this name lies, in the filesystem's own terms."""
        return f"{self.root}/{name}"

    def below(self, name: str) -> "Folder":
        """A folder in this one."""
        return Folder(self.flag, f"{self.url.rstrip('/')}/{name}")

    def publish(self, source: Path, name: str) -> None:
        """Put a finished local file under its name.

        A store such as S3 shows an object only once all of it has arrived. On a local disk the
        file is copied beside the folder's own and then renamed.
        """
        target = self.path(name)
        if not self.local:
            self.fs.put_file(str(source), target)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(self.path(".partial")).mkdir(exist_ok=True)
        partial = self.path(f".partial/{uuid.uuid4().hex}")
        shutil.copyfile(source, partial)
        os.replace(partial, target)

    def publish_text(self, text: str, name: str) -> None:
        """Put a small text file under its name."""
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "text"
            source.write_text(text)
            self.publish(source, name)

    def sweep(self) -> None:
        """Remove what publishing left behind when a process was killed in the middle of it."""
        if self.local:
            shutil.rmtree(self.path(".partial"), ignore_errors=True)

    def check_free(self, name: str) -> None:
        """Raises UsageError if a file of this name is there, or the folder is out of reach."""
        try:
            taken = self.fs.exists(self.path(name))
            if self.local:
                Path(self.root).mkdir(parents=True, exist_ok=True)
        except Exception as error:  # whatever a store raises, this folder cannot be used
            raise self.unusable(error) from error
        if taken:
            raise UsageError(
                self.flag, self.url, f"it holds a {name} already", "give another folder"
            )

    def unusable(self, error: Exception) -> UsageError:
        """The error to raise when the store does not take this folder."""
        return UsageError(
            self.flag, self.url, _one_line(error), "check the path, the bucket and your credentials"
        )

    def read_text(self, name: str) -> str | None:
        """A small text file's content; None when there is no such file."""
        try:
            return self.fs.cat_file(self.path(name)).decode()
        except FileNotFoundError:
            return None

    def claim(self, name: str, record: dict) -> dict:
        """Publish a record of what made this folder, unless there is one; the one that is there.

        Returns it as JSON gives it back. Raises UsageError when the folder cannot be used, or the
        file in it is no JSON.
        """
        try:
            text = self.read_text(name)
            if text is None:
                text = json.dumps(record, indent=2) + "\n"
                self.publish_text(text, name)
        except Exception as error:  # whatever a store raises, this folder cannot be used
            raise self.unusable(error) from error
        try:
            return json.loads(text)
        except ValueError as error:
            problem = f"its {name} is not JSON"
            raise UsageError(self.flag, self.url, problem, "give another folder") from error

    def names(self, folder: str, ending: str) -> list[str]:
        """Sorted names, without the ending, of all files with it below one of the folders."""
        self.fs.invalidate_cache()
        base = self.path(folder)
        files = self.fs.find(base) if self.fs.exists(base) else []
        prefix = self.fs._strip_protocol(base).rstrip("/") + "/"
        return sorted(
            f.removeprefix(prefix).removesuffix(ending) for f in files if f.endswith(ending)
        )


def total_size(shards: Iterable[Shard]) -> int:
    """Bytes of all shards."""
    return sum(shard.size for shard in shards)
