"""Real clusters of several nodes on this machine, and runs on them that nodes are taken from."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ray_cluster import ROOT, Cluster, end_ray, free_port
from stores import LocalStore

# The head declares a node dead after so long: the defaults would add 10 seconds to each loss.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


# By default all nodes would give their workers the same ports.
ANY_PORT = {"min-worker-port": 0, "max-worker-port": 0}
# In the environment of a node's processes: its number.
MARK = "WAVMILL_TEST_NODE"


class Nodes(Cluster):
    """A cluster of a head without GPUs, and of nodes that claim to have one each."""

    def __init__(self):
        super().__init__({"PYTHONPATH": ROOT}, dashboard=False)
        self.number = 0

    def add(self) -> int:
        """A new node; returns its number."""
        self.number += 1
        flags = {
            "address": f"127.0.0.1:{self.port}",
            "node-ip-address": "127.0.0.1",
            "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "metrics-export-port": free_port(),
            "num-cpus": 2,
            "num-gpus": 1,
            **ANY_PORT,
        }
        parts = [f"--{name}={value}" for name, value in flags.items()]
        self.ray_start(*parts, env={MARK: str(self.number)})
        return self.number

    def kill(self, node: int) -> None:
        """The node is gone without a word, with all its processes."""
        mark = f"{MARK}={node}\0".encode()
        for entry in Path("/proc").iterdir():
            # What is no process, or one that has ended.
            with contextlib.suppress(OSError, ValueError):
                if mark in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)

    def run(self, source: Path, tokenizer: Path, output: Path) -> "Run":
        """Start a run whose encoders need the nodes' GPUs."""
        program = Path(__file__).with_name("tokenize_on_nodes.py")
        process = subprocess.Popen(
            [sys.executable, *map(str, (program, source, tokenizer, output))],
            cwd=ROOT,
            env={**self.env, "RAY_ADDRESS": f"127.0.0.1:{self.port}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        return Run(process, LocalStore(output))


class Run:
    """A driver, and what it has written."""

    def __init__(self, process: subprocess.Popen, store: LocalStore):
        self.process, self.store = process, store

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Wait while it runs."""
        deadline = time.monotonic() + 200
        while not reached():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def finished(self) -> int:
        """Shards with a report."""
        return sum(name.startswith("reports/") for name in self.store.state())

    def end(self) -> tuple[int, str]:
        """Wait for its exit status and what it said."""
        _, said = self.process.communicate(timeout=250)
        return self.process.returncode, said

    def tars(self) -> dict[str, bytes]:
        """The token shards."""
        names = [name for name in self.store.state() if name.startswith("shards/")]
        return {name: self.store.read(name) for name in names}


@contextlib.contextmanager
def own_nodes() -> Iterator[Nodes]:
    """A cluster of a head alone, which ends with the body."""
    nodes = Nodes()
    try:
        nodes.start(**{"num-gpus": 0, "system-config": json.dumps(QUICK), **ANY_PORT})
        yield nodes
    finally:
        end_ray(nodes.folder)
