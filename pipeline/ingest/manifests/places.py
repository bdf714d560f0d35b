"""Where the audio of a manifest lies: paths against its folder, and each file's size."""

import os
import posixpath
import re
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from pipeline.ingest.sources import OUTSIDE
from pipeline.shards.listing import version_of
from tokenizer.storage.folder import filesystem
from tokenizer.storage.retries import patiently

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Place(NamedTuple):
    """An audio file. url: "" of one that may not be read. name: for records and keys.

    problem: OUTSIDE of one that lies outside the folder of the manifest's audio, else None.
    """

    url: str
    name: str
    problem: str | None = None


class Listings:
    """The infos of files on any filesystem: a store's folder is listed once, however many files in
    it are asked for.
    """

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, dict[str, Any]]] = {}

    def info(self, url: str) -> dict[str, Any] | None:
        """Fsspec's info of a file; None of what is not there, or is no file."""
        fs, path = filesystem(url)
        try:
            if isinstance(fs, LocalFileSystem):
                return fs.info(path) if os.path.isfile(path) else None
            if url.startswith(("http://", "https://")):
                return patiently(fs.info, path)
            folder = url.rpartition("/")[0]
            if folder not in self._folders:
                listed = patiently(fs.ls, posixpath.dirname(path), detail=True)
                files = {info["name"]: info for info in listed if info["type"] == "file"}
                self._folders[folder] = files
            return self._folders[folder].get(path)
        except FileNotFoundError:
            return None

    def version(self, url: str) -> tuple[int, str]:
        """(bytes, version) of a file; -1 and "" of what is not there."""
        info = self.info(url)
        return (-1, "") if info is None else version_of(info)


class AudioPlaces:
    """Finds the audio files that one manifest names."""

    def __init__(self, manifest: str, listings: Listings, root: str | None = None) -> None:
        """manifest: its URL; paths are relative to its folder. root: paths are relative to this
        folder instead, and nothing outside it is taken.
        """
        self.listings, self.strict = listings, root is not None
        self.fs, path = filesystem(manifest if root is None else root)
        self.root = (posixpath.dirname(path) if root is None else path).rstrip("/")
        self._found: dict[str, Place] = {}

    def find(self, path: str, candidates: tuple[str, ...] = ()) -> Place:
        """Where a row's audio lies.

        candidates: other paths, tried in order where there is no file at `path`. Where there is
        none at any, the place is that of the first.
        """
        if path not in self._found:
            place = self._resolve(path)
            if candidates and not self._exists(place):
                others = map(self._resolve, candidates)
                place = next((other for other in others if self._exists(other)), place)
            self._found[path] = place
        return self._found[path]

    def _exists(self, place: Place) -> bool:
        return bool(place.url) and self.listings.info(place.url) is not None

    def _resolve(self, path: str) -> Place:
        relative = False
        if URL.match(path):
            fs, absolute = filesystem(path)
            url = fs.unstrip_protocol(absolute)
            if isinstance(fs, LocalFileSystem):
                absolute = posixpath.normpath(absolute)
        elif path.startswith("/") and isinstance(self.fs, LocalFileSystem):
            absolute = posixpath.normpath(path)
            url = self.fs.unstrip_protocol(absolute)
        else:
            relative = True
            absolute = posixpath.normpath(f"{self.root}/{path}")
            url = self.fs.unstrip_protocol(absolute)
        inside = absolute.startswith(f"{self.root}/")
        if not inside and (relative or self.strict):
            return Place("", path, OUTSIDE)
        return Place(url, absolute[len(self.root) + 1 :] if inside else absolute.lstrip("/"))
