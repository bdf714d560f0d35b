"""Temporary folders: removed when they are left, or else by the next process that makes one, or
that ends a Ray of its own.

A process that is killed removes nothing, and with it a shard of half a gigabyte would stay behind.
Whoever makes a folder holds a lock on it, which ends with the process, however that ends.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "wavmill-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in TMPDIR that is gone afterwards.

    Folders of processes that were killed, of the same user, are removed first. Raises OSError where
    none can be made.
    """
    remove_abandoned()
    folder, lock = _locked_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def scratch_until_exit() -> Path:
    """As scratch_folder, until the process ends."""
    stack = ExitStack()
    folder = stack.enter_context(scratch_folder())
    atexit.register(stack.close)
    return folder


def _locked_folder() -> tuple[Path, int]:
    """A new folder, and the open file that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):  # another process took it for an abandoned one
            lock = os.open(folder, os.O_RDONLY)
            _lock(lock)  # where folders cannot be locked, nobody removes this one either
            if folder.exists():
                return folder, lock
            os.close(lock)


def _lock(handle: int) -> bool:
    """Lock an open folder, if no other process has."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned() -> None:
    """Remove the folders of processes of this user that were killed, which nobody holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # it has gone, or is another user's
        try:
            if os.fstat(handle).st_uid == os.getuid() and _lock(handle):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
