"""Files on a local disk: safe from a power cut, and each made by one process alone."""

import contextlib
import errno
import os
import shutil
from pathlib import Path

# What a disk without hard links answers: exFAT, and stores that are mounted as one.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
# What some mounts answer when a folder is to be synced.
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


def create(source: Path, target: Path) -> bool:
    """Give a finished file a second name on its disk, unless there is a file of this name.

    Returns whether it was given; of two processes that try at once one succeeds. On a disk without
    hard links the file is copied, and a reader may see half of it.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _copy(source, target)
    return True


def _copy(source: Path, target: Path) -> bool:
    try:
        file = target.open("xb")
    except FileExistsError:
        return False
    with contextlib.ExitStack() as undo:
        undo.callback(target.unlink)  # half a file would count as a whole one
        with file, source.open("rb") as content:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        undo.pop_all()
    return True


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk, if that can be asked."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(handle)
