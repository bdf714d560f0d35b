"""Requests to a store that fails now and then: tried again, and at last one clear error."""

import errno
import time
from collections.abc import Callable
from typing import Any

from tokenizer.errors import one_line

# Seconds to wait before each further try; s3fs has tried five times itself by then.
WAITS = (1.0, 4.0, 10.0)
# How often a listing is asked for again when the answer is empty.
EMPTY_LISTINGS = 4
# What waiting does not mend.
FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


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
