"""Measured rates: the file that ships, and files that the benches write.

A file of rates is JSON: {name: {"value": number, "unit": ..., "on": ..., "command": ...}}. Names:

encode/ENCODER/LAYER/PRECISION/GPU   seconds of audio a second, on one GPU
decode/CONTAINER                     seconds of audio a second, on one core, in a shard's task
bytes/CONTAINER                      of input, for a second of audio
train/PRESET/PRECISION/GPU           tokens of the language model a second, on one GPU
driver/shards                        shards that the driver can start and end in a second of its own
manifest/reports                     reports a second that go into the manifest
manifest/row_bytes                   of a report, for a sample
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizer.errors import UsageError

SHIPPED = Path(__file__).with_name("rates.json")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A measured value, and how it was measured. on: the machine and the day."""

    value: float
    unit: str
    on: str = ""
    command: str = ""

    def __str__(self) -> str:
        parts = [f"{self.value:,.6g} {self.unit}", self.on, self.command]
        return "; ".join(part for part in parts if part)


def read_rates(path: str | None = None) -> dict[str, Rate]:
    """The rates that ship and, over them, those of a file.

    Raises UsageError for a file that is missing or is no file of rates.
    """
    rates = _read(SHIPPED)
    return {**rates, **_read(Path(path))} if path else rates


def write_rates(path: str, new: dict[str, Rate]) -> None:
    """Add rates to a file of rates, in place of those of the same names; makes it if missing.

    Raises UsageError as read_rates does.
    """
    file = Path(path)
    rates = {**(_read(file) if file.exists() else {}), **new}
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {name: asdict(rate) for name, rate in sorted(rates.items())}
    file.write_text(json.dumps(values, indent=2) + "\n")


def _read(path: Path) -> dict[str, Rate]:
    rates = {}
    for name, entry in read_json_object(path, "rates").items():
        value = entry.get("value") if isinstance(entry, dict) else None
        rates[name] = Rate(
            value=positive_value(value, f"the rate {name}", path=path, argument="rates"),
            **{key: str(entry.get(key, "")) for key in ("unit", "on", "command")},
        )
    return rates


def read_json_object(path: Path, argument: str) -> dict:
    """A JSON file's object. argument: the parameter it was given as. Raises UsageError."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except OSError as error:
        raise UsageError(
            f"it cannot be read ({error.strerror})",
            "give a JSON file",
            value=str(path),
            argument=argument,
        ) from error
    except ValueError as error:
        raise UsageError(
            f"it is not JSON as is needed ({error})",
            "docs/performance.md shows one",
            value=str(path),
            argument=argument,
        ) from error
    return values


def positive_value(value: object, what: str, *, path: Path, argument: str) -> float:
    """A finite number over zero. Raises UsageError for anything else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < float(value) < math.inf:  # type: ignore[arg-type]
        raise UsageError(
            f"{what} is {value!r}, not a number over zero",
            "correct it",
            value=str(path),
            argument=argument,
        )
    return float(value)  # type: ignore[arg-type]
