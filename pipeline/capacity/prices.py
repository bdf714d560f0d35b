"""What things cost, from a file: no price is built in, as they differ by contract and month."""

from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.capacity.rates import positive_value, read_json_object
from tokenizer.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Prices:
    """In `currency`. None where the file names no price.

    gpu_hour: by GPU, with the cores and memory of its share of the node. storage_gb_month: of 10^9
    bytes. read_requests, write_requests: a thousand of them. transfer_gb: of input that crosses to
    the nodes.
    """

    currency: str
    gpu_hour: dict[str, float]
    storage_gb_month: float | None = None
    read_requests: float | None = None
    write_requests: float | None = None
    transfer_gb: float | None = None


def read_prices(path: str) -> Prices:
    """From a JSON file with the fields of Prices. Raises UsageError for one that is not so."""
    file = Path(path)
    values = read_json_object(file, "prices")
    known = {each.name for each in fields(Prices)}

    def refuse(problem: str) -> UsageError:
        return UsageError(
            problem, f"give {', '.join(sorted(known))}", value=path, argument="prices"
        )

    if unknown := sorted(set(values) - known):
        raise refuse(f"it has {', '.join(unknown)}, which is no price that is used")
    if not isinstance(values.get("currency"), str) or not isinstance(values.get("gpu_hour"), dict):
        raise refuse("it needs a currency, and gpu_hour with the price of each GPU")
    for name, value in values["gpu_hour"].items():
        positive_value(value, f"gpu_hour of {name}", path=file, argument="prices")
    for name in known & set(values) - {"currency", "gpu_hour"}:
        positive_value(values[name], name, path=file, argument="prices")
    return Prices(**values)
