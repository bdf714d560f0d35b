"""--rates of the benches: what they measured, for jobs/plan.py."""

import platform
import re
from datetime import UTC, datetime
from pathlib import Path

import torch

from jobs.cli import flags
from pipeline.capacity.rates import Rate, write_rates


def add_rates(parser: flags.argparse.ArgumentParser) -> None:
    """--rates."""
    parser.add_argument(
        "--rates", metavar="FILE", help="write what is measured to this file, for jobs/plan.py"
    )


def record(path: str | None, measured: dict[str, float], unit: str, command: str) -> None:
    """Add {name: value} to the file of rates at `path`; None writes nothing."""
    if path is None:
        return
    on = f"{machine()}, {datetime.now(UTC):%Y-%m-%d}"
    new = {
        name: Rate(value=float(f"{value:.4g}"), unit=unit, on=on, command=command)
        for name, value in measured.items()
    }
    with flags.naming("--rates", path):
        write_rates(path, new)


def machine() -> str:
    """The GPU or, without one, the processor's name and its family, and how many cores it has."""
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    names = re.findall(r"^(model name|cpu family)\s*: (.*)$", text, re.M)
    described = " family ".join(value for _, value in sorted(dict(names).items(), reverse=True))
    return f"{described or platform.machine()}, {torch.get_num_threads()} threads"
