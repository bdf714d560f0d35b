"""Requests to a store that fails now and then: tried again, and at last one clear error.

What a try of an upload that failed leaves at the store is removed.
"""

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizer.errors import one_line

# Seconds to wait before each further try; s3fs has tried five times itself by then.
WAITS = (1.0, 4.0, 10.0)
# How often a listing is asked for again when the answer is empty.
EMPTY_LISTINGS = 4
# s3fs sends files from 100 MB up in parts.
PARTS_BYTES = 64 << 20
# How often an upload that another process removed is begun again.
TRIES = 3
# What waiting does not mend.
FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)

log = logging.getLogger(__name__)


class StoreFailed(OSError):
    """A store did not answer, time after time; the message says what it said last."""


def patiently(function: Callable[..., Any], *values: Any, **more: Any) -> Any:
    """Call a function of a store's, again if it fails. Raises StoreFailed after the last try.

    Errors that waiting does not mend, such as FileNotFoundError, are passed on at once.
    """
    for wait in (*WAITS, None):
        try:
            return function(*values, **more)
        except FINAL:
            raise
        except OSError as error:
            if error.errno == errno.ENOSYS:
                raise
            if wait is None:
                raise StoreFailed(f"the store fails: {one_line(error)}") from error
            time.sleep(wait)


def refuse_empty_listings(fs: Any) -> None:
    """Make an S3 filesystem ask again after an answer to a listing that has no content at all.

    Its client takes one for a folder without files, or for the last page of a long list.
    """
    if "s3" not in fs.protocol or getattr(fs, "_asks_again", None) is fs.s3:
        return
    for kind in ("ListObjectsV2", "ListObjects"):
        fs.s3.meta.events.register(f"needs-retry.s3.{kind}", _seconds_until_retry)
    fs._asks_again = fs.s3


def _seconds_until_retry(response: Any, attempts: int, **_: Any) -> float | None:
    """What the client of S3 asks after each answer; None for an answer to be taken."""
    if response is None or set(response[1]) != {"ResponseMetadata"}:
        return None
    if response[0].status_code != 200:
        return None
    if attempts > EMPTY_LISTINGS:
        raise OSError("the store gives an empty answer when it is asked for a listing")
    return 0.1 * 2**attempts


def upload(fs: Any, source: Path, target: str) -> None:
    """Put a local file in a store, and end what earlier tries of the same file began there.

    S3 keeps the parts of an upload until somebody ends it, and charges for them. When the answer
    that names an upload is lost on the way, or a process is killed, nobody ends it. So once the
    file is whole, all unfinished uploads of that very file are aborted. Another process that is
    sending the same file then starts again, and ends after the one that aborted it.

    Raises StoreFailed after several tries, and FileNotFoundError where there is no such bucket.
    """
    in_parts = "s3" in fs.protocol and source.stat().st_size >= PARTS_BYTES
    for tries_left in reversed(range(TRIES if in_parts else 1)):
        try:
            patiently(fs.put_file, str(source), target)
            break
        except FileNotFoundError:  # no such upload any more, or no such bucket
            if not tries_left:
                raise
    if in_parts:
        _abort_unfinished(fs, target)


def _abort_unfinished(fs: Any, target: str) -> None:
    """Abort the unfinished uploads of one file. The file is whole, so a refusal is no failure."""
    bucket, key, _ = fs.split_path(target)
    try:
        answer = patiently(fs.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=key)
        for begun in answer.get("Uploads", []):
            if begun["Key"] == key:
                _abort(fs, Bucket=bucket, Key=key, UploadId=begun["UploadId"])
    except OSError as error:
        # Not every user may list uploads, and the rule of the bucket that the docs name is enough.
        log.info("unfinished uploads of %s are left to the bucket: %s", target, one_line(error))


def _abort(fs: Any, **name: str) -> None:
    with suppress(FileNotFoundError):  # another process has ended it
        patiently(fs.call_s3, "abort_multipart_upload", **name)
