"""A folder on any filesystem that fsspec knows: its files are published whole or not at all."""

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tokenizer.errors import UsageError, is_disk_full, one_line
from tokenizer.storage import disk
from tokenizer.storage.retries import patiently, refuse_empty_listings, upload
from tokenizer.storage.scratch import scratch_folder

# How a large file is opened for one pass. A request to a store fetches this much, and the next
# request waits for it, so it is not small.
BLOCK_BYTES = 16 << 20
READ_AHEAD = {"block_size": BLOCK_BYTES, "cache_type": "readahead"}


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem and path of a URL. Raises UsageError for a scheme fsspec lacks.

    Only fsspec opens paths: a `pipe:` URL, which webdataset would run in a shell, is refused like
    any unknown scheme.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme and "://" not in url and os.path.lexists(url):
        scheme = None  # a local file's name may have a colon
    if scheme and scheme[1].lower() not in fsspec.available_protocols():
        raise UsageError(
            f"'{scheme[1]}:' is no filesystem",
            "give a path or a URL such as s3://bucket/x",
            value=url,
        )
    try:
        return _literal(url) or fsspec.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(
            one_line(error), "install what it names or correct the URL", value=url
        ) from error


def _literal(url: str) -> tuple[Any, str] | None:
    """The filesystem and path of what lies there under a name with "::", which chains filesystems.

    None when nothing does, or the URL has no "::".
    """
    if "::" not in url:
        return None
    scheme = url.partition("://")[0] if "://" in url else "file"
    if scheme not in fsspec.available_protocols():
        return None
    kind = fsspec.get_filesystem_class(scheme)
    fs, path = kind(**kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)
    return (fs, path) if fs.exists(path) else None


def public_url(url: str) -> str:
    """A URL for records and file names: without user, password, signature or other parameters."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        return url
    place, slash, path = rest.partition("/")
    if scheme in ("http", "https"):
        path = re.split(r"[?#]", path)[0]
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def check_name(name: str) -> None:
    """Raises ValueError for a file name that leads out of its folder, or that no file should have.

    Its parts, between slashes, may not be empty, "." or ".."; control characters are refused too.
    """
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError("its name has a part that is empty, '.' or '..'")
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name):
        raise ValueError("its name has a control character")


class Folder:
    """A folder on any filesystem, in which a published file appears whole or not at all.

    fs, root: the fsspec filesystem, and the folder's path there. url: the folder by an absolute
    path or URL. given: as it was given, for messages.
    """

    def __init__(self, url: str, argument: str | None = "output") -> None:
        """argument: the parameter that an error names. Raises UsageError for an unknown scheme."""
        self.given, self.argument = url, argument
        try:
            self.fs, root = filesystem(url)
        except UsageError as error:
            error.argument = error.argument or argument
            raise
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        # A Ray Train process runs in another working directory, where a relative path would differ.
        self.url = self.root if self.local else url

    def path(self, name: str) -> str:
        """Where a file of this name lies, in the filesystem's own terms. "" is the folder itself.

        Raises UsageError for a name that leads out of the folder.
        """
        if name:
            try:
                check_name(name)
            except ValueError as error:
                raise self.refused(f"{name!r} is no name in it: {error}", "rename it") from error
        return f"{self.root}/{name}"

    def below(self, name: str) -> "Folder":
        """A folder in this one."""
        return Folder(f"{self.url.rstrip('/')}/{name}", self.argument)

    def publish(self, source: Path, name: str) -> None:
        """Put a finished local file under its name.

        A store such as S3 shows an object only once it is complete. On a local disk the file is
        copied into the folder's .partial and then renamed.
        """
        target = self.path(name)
        if not self.local:
            upload(self.fs, source, target)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with self._partial(source) as partial:
            os.replace(partial, target)
        disk.sync(Path(target).parent)

    @contextmanager
    def _partial(self, source: Path) -> Iterator[str]:
        """A copy of a local file on the folder's disk, under a name that is gone afterwards."""
        Path(self.path(".partial")).mkdir(parents=True, exist_ok=True)
        partial = self.path(f".partial/{uuid.uuid4().hex}")
        try:
            shutil.copyfile(source, partial)
            # A name must not outlive a power cut when its content does not.
            disk.sync(Path(partial))
            yield partial
        except OSError as error:
            if is_disk_full(error):  # copying names the source, and it is this disk that is full
                raise OSError(error.errno, os.strerror(error.errno or 0), self.given) from error
            raise
        finally:
            Path(partial).unlink(missing_ok=True)

    def create(self, source: Path, name: str) -> bool:
        """As `publish`, unless there is a file of this name; returns whether it was published.

        Of two that create it at once one wins, on a local disk and on S3 with conditional writes.
        """
        target = self.path(name)
        if self.local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            with self._partial(source) as partial:
                created = disk.create(Path(partial), Path(target))
            disk.sync(Path(target).parent)
            return created
        try:
            # S3 then takes the object only if there is none.
            patiently(self.fs.put_file, str(source), target, mode="create")
        except FileExistsError:
            return False
        except (OSError, NotImplementedError) as error:
            self.fs.invalidate_cache()
            if patiently(self.fs.exists, target):
                return False  # refused, as another was faster
            if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                raise
            # A store that cannot do so. Of two that create it at once the last one wins.
            self.publish(source, name)
            return self.read_bytes(name) == source.read_bytes()
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if there is one of this name."""
        try:
            patiently(self.fs.rm_file, self.path(name))
        except FileNotFoundError:
            return
        self.fs.invalidate_cache()

    def publish_folder(self, source: Path, name: str = "") -> None:
        """Put a finished local folder's files below `name`, its config.json last.

        A folder without a config.json is no model, so a reader never sees half of one.
        """
        files = sorted(path for path in Path(source).rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: path == Path(source) / "config.json"):
            below = path.relative_to(source).as_posix()
            self.publish(path, f"{name}/{below}" if name else below)

    def publish_text(self, text: str, name: str) -> None:
        """Put a small text file under its name."""
        with scratch_folder() as scratch:
            source = scratch / "text"
            source.write_text(text)
            self.publish(source, name)

    def sweep(self) -> None:
        """Remove partial files that a killed process left behind."""
        if self.local:
            shutil.rmtree(self.path(".partial"), ignore_errors=True)

    def check_free(self, name: str) -> None:
        """Raises UsageError if a file of this name exists, or the folder cannot be used."""
        try:
            taken = self.fs.exists(self.path(name))
            if self.local:
                Path(self.root).mkdir(parents=True, exist_ok=True)
        except Exception as error:  # whatever a store raises, this folder cannot be used
            raise self.unusable(error) from error
        if taken:
            raise self.refused(f"it holds a {name} already", "give another folder")

    def refused(self, problem: str, remedy: str) -> UsageError:
        """The error to raise when this folder is the wrong one."""
        return UsageError(problem, remedy, value=self.given, argument=self.argument)

    def unusable(self, error: Exception) -> UsageError:
        """The error to raise when the store fails with `error`."""
        return self.refused(one_line(error), "check the path, the bucket and your credentials")

    def read_bytes(self, name: str) -> bytes:
        """A small file's content. Raises FileNotFoundError, or StoreFailed after several tries."""
        return patiently(self._whole, self.path(name))

    def _whole(self, path: str) -> bytes:
        """A file's content. Raises OSError where the store's answer ends before it."""
        data = self.fs.cat_file(path)
        size = self.fs.info(path).get("size")
        if size is not None and len(data) != size:
            self.fs.invalidate_cache()  # or it is another file by now
            raise OSError(f"{len(data):,} of {size:,} bytes came")
        return data

    def read_text(self, name: str) -> str | None:
        """A small text file's content; None when there is no such file."""
        try:
            return self.read_bytes(name).decode()
        except FileNotFoundError:
            return None

    def claim(self, name: str, record: dict) -> dict:
        """Publish a record of what makes this folder, unless it has one; returns what it has.

        The record comes back as JSON gives it. Raises UsageError when the folder cannot be used, or
        the file in it is no JSON object; passes on that a disk is full.
        """
        try:
            text = self.read_text(name)
            if text is None:
                mine = json.dumps(record, indent=2) + "\n"
                with scratch_folder() as scratch:
                    source = scratch / "text"
                    source.write_text(mine)
                    text = mine if self.create(source, name) else self.read_text(name)
        except Exception as error:  # whatever a store raises, this folder cannot be used
            if is_disk_full(error):
                raise
            raise self.unusable(error) from error
        try:
            before = json.loads(text or "")
        except (ValueError, RecursionError):
            before = None
        if not isinstance(before, dict):
            raise self.refused(f"its {name} is not a JSON object", "give another folder")
        return before

    def claim_run(self, name: str, record: dict) -> None:
        """Claim the folder for a run. Raises UsageError when it has another run's record."""
        record = json.loads(json.dumps(record))  # its tuples as lists
        before = self.claim(name, record)
        different = [key for key in record if before.get(key) != record[key]]
        if different:
            raise self.refused(
                f"the run in it has other {' and '.join(different)}; see its {name}",
                "repeat that run's settings, or give another folder",
            )

    def names(self, folder: str, ending: str) -> list[str]:
        """Sorted names, without the ending, of all files with it below one of the folders."""
        refuse_empty_listings(self.fs)
        self.fs.invalidate_cache()
        base = self.path(folder)
        files = patiently(self.fs.find, base) if patiently(self.fs.exists, base) else []
        prefix = self.fs._strip_protocol(base).rstrip("/") + "/"
        return sorted(
            f.removeprefix(prefix).removesuffix(ending) for f in files if f.endswith(ending)
        )
