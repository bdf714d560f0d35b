"""The json of a sample: its value, or why it has none."""

import json
import math
from typing import IO, NamedTuple

# Json over this is not parsed: it takes up to 30 times its size in memory.
LARGEST_JSON = 4 << 20


class Metadata(NamedTuple):
    """The value of a json member, or why it has none. size: of the member."""

    value: object
    error: str | None
    size: int


def parse_metadata(content: IO[bytes], size: int) -> Metadata:
    """The value of a json file. size: of its content in bytes."""
    if size > LARGEST_JSON:
        return Metadata(None, f"over {LARGEST_JSON >> 20} MB of json: {size:,} bytes", 0)
    text = content.read()
    try:
        # Python's json takes NaN, Infinity and 1e999, which would make the output invalid JSON.
        value = json.loads(text, parse_constant=lambda _: None, parse_float=finite)
    except (ValueError, RecursionError) as error:
        return Metadata(None, f"not JSON: {error}", 0)
    return Metadata(value, None, len(text))


def finite(text: str) -> float | None:
    """A number of a json text, or None where it is too large for a float."""
    value = float(text)
    return value if math.isfinite(value) else None
