"""Files and folders on any filesystem that fsspec knows: fetched, or published whole."""

import atexit
import json
import os
import re
import shutil
import tempfile
import uuid
from pathlib import Path

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from tokenizer.errors import UsageError, one_line

# What ships with the project: encoders and tokenizers, a folder each.
PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem and path of a URL. Raises UsageError for a scheme that fsspec does not know.

    Nothing but fsspec opens a path here: a `pipe:` URL, which webdataset would run in a shell, is
    refused like any unknown scheme.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme and scheme[1].lower() not in fsspec.available_protocols():
        raise UsageError(
            f"'{scheme[1]}:' is no filesystem",
            "give a path or a URL such as s3://bucket/x",
            value=url,
        )
    try:
        return url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(
            one_line(error), "install what it names or mend the URL", value=url
        ) from error


def fetch_folder(value: str, kind: str, hub: bool = False) -> Path:
    """A folder as a local one: of a path, a URL, a NAME that ships or, with `hub`, a hub id.

    kind: what should be there, for the message. Raises UsageError when there is no such folder.
    """
    if re.fullmatch(r"[\w-]+", value) and not Path(value).exists():
        if (PRETRAINED / value).is_dir():
            return PRETRAINED / value
        names = ", ".join(sorted(folder.name for folder in PRETRAINED.glob("*/")))
        raise UsageError(
            "there is no such folder",
            f"give the folder or URL of {kind}, or of {names}",
            value=value,
        )
    if not Path(value).exists() and hub and re.fullmatch(r"[\w.-]+/[\w.-]+", value):
        return _fetch_from_hub(value)
    fs, path = filesystem(value)
    remedy = f"give the folder or URL of {kind}"
    try:
        if not fs.isdir(path):
            raise UsageError("there is no such folder", remedy, value=value)
        if isinstance(fs, LocalFileSystem):
            return Path(path)
        local = tempfile.mkdtemp(prefix="wavmill-")
        atexit.register(shutil.rmtree, local, ignore_errors=True)
        fs.get(path.rstrip("/") + "/", local, recursive=True)
    except UsageError:
        raise
    except Exception as error:  # as above: any store, any reason, but this argument
        raise UsageError(one_line(error), remedy, value=value) from error
    return Path(local)


def _fetch_from_hub(value: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    names = ["config.json", "preprocessor_config.json"]
    try:
        folder = Path(snapshot_download(value, allow_patterns=[*names, "*.safetensors"]))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(value, allow_patterns=[*names, "pytorch_model.bin"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UsageError(
            one_line(error), "give a local folder, or a hub id this machine can reach", value=value
        ) from error
    return folder


class Folder:
    """An output folder on any filesystem, in which a file appears whole or not at all."""

    def __init__(self, url: str, argument: str = "output") -> None:
        """argument: what an error says the folder was given as. Raises UsageError for an unknown
        scheme.
        """
        self.given, self.argument = url, argument
        try:
            self.fs, root = filesystem(url)
        except UsageError as error:
            error.argument = error.argument or argument
            raise
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        # A process of Ray Train works in another folder: there a relative path would be elsewhere.
        self.url = self.root if self.local else url

    def path(self, name: str) -> str:
        """Where a file of this name lies, in the filesystem's own terms."""
        return f"{self.root}/{name}"

    def below(self, name: str) -> "Folder":
        """A folder in this one."""
        return Folder(f"{self.url.rstrip('/')}/{name}", self.argument)

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
                f"it holds a {name} already",
                "give another folder",
                value=self.given,
                argument=self.argument,
            )

    def unusable(self, error: Exception) -> UsageError:
        """The error to raise when the store does not take this folder."""
        return UsageError(
            one_line(error),
            "check the path, the bucket and your credentials",
            value=self.given,
            argument=self.argument,
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
            raise UsageError(
                problem, "give another folder", value=self.given, argument=self.argument
            ) from error

    def claim_run(self, name: str, record: dict) -> None:
        """Claim the folder for a run; raises UsageError when another run's record is there."""
        record = json.loads(json.dumps(record))  # its tuples as lists
        before = self.claim(name, record)
        different = [key for key in record if before.get(key) != record[key]]
        if different:
            raise UsageError(
                f"the run in it has other {' and '.join(different)}; see its {name}",
                "repeat that run's settings, or give another folder",
                value=self.given,
                argument=self.argument,
            )

    def names(self, folder: str, ending: str) -> list[str]:
        """Sorted names, without the ending, of all files with it below one of the folders."""
        self.fs.invalidate_cache()
        base = self.path(folder)
        files = self.fs.find(base) if self.fs.exists(base) else []
        prefix = self.fs._strip_protocol(base).rstrip("/") + "/"
        return sorted(
            f.removeprefix(prefix).removesuffix(ending) for f in files if f.endswith(ending)
        )
