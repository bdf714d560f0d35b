"""The memory of a job and of the processes that it starts. Linux only."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent.parent
LOOK_SECONDS = 0.05


def peaks(
    command: list[str], env: dict[str, str], processes: Mapping[str, str | tuple[str, ...]]
) -> dict[str, float]:
    """Run a job. Returns the peak memory in MB of the driver and of each kind of process.

    processes: {kind: how the titles of its processes begin}. Ends this process with the job's own
    errors where it fails.
    """
    found: dict[int, tuple[str, float]] = {}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        while driver.poll() is None:
            for process, title in _family(driver.pid).items():
                kinds = [kind for kind, start in processes.items() if title.startswith(start)]
                kind = "driver" if process == driver.pid else (kinds or [""])[0]
                # A worker that has done its task has another title, and the same peak.
                kind = kind or found.get(process, ("", 0))[0]
                found[process] = (
                    kind,
                    max(found.get(process, ("", 0))[1], status_mb("VmHWM", process)),
                )
            time.sleep(LOOK_SECONDS)
        errors = driver.stderr.read() if driver.stderr else ""
    if driver.returncode:
        sys.exit(errors)
    kinds = ["driver", *processes]
    return {
        kind: max([peak for name, peak in found.values() if name == kind] or [0.0])
        for kind in kinds
    }


def memory_mb(name: str) -> float:
    """MB that this process and its descendants whose titles hold this name have now."""
    family = _family(os.getpid())
    return sum(status_mb("VmRSS", process) for process in family if name in family[process])


def _family(process: int) -> dict[int, str]:
    """{process id: title} of a process and all that descend from it."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(status[1])
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            continue  # no process, or one that has ended
    family = {process}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {each: titles[each] for each in family if each in titles}


def status_mb(name: str, process: int | str = "self") -> float:
    """MB of a process's memory: "VmRSS" in use now, "VmHWM" at most so far; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max([int(line.split()[1]) / 1024 for line in lines if line.startswith(name)] or [0.0])
