"""Requests to a store that fails now and then: tried again, and at last one clear error."""

import time
from collections.abc import Callable
from typing import Any

from tokenizer.errors import one_line

# Seconds to wait before each further try; s3fs has tried five times itself by then.
WAITS = (1.0, 4.0, 10.0)
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
            if wait is None:
                raise StoreFailed(f"the store fails: {one_line(error)}") from error
            time.sleep(wait)
