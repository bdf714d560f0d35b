"""Ray clusters of the tests' own: one that most jobs connect to, and those that a test ends."""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def environment(changes: dict | None = None) -> dict:
    """This process's environment without a Ray cluster's address; None takes a variable away."""
    merged = {**os.environ, "RAY_ADDRESS": None, **(changes or {})}
    return {name: str(value) for name, value in merged.items() if value is not None}


# The system may give a port out again as soon as it is closed, and did so to one cluster twice.
GIVEN_PORTS: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, another one at every call."""
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        if port not in GIVEN_PORTS:
            GIVEN_PORTS.add(port)
            return port


def ray_processes(folder: str) -> dict[int, str]:
    """{process: command line} of the Ray processes whose RAY_TMPDIR this is.

    Told by it in their environment, or by their logs: Ray's agents blank their environment.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            files = " ".join(os.readlink(link) for link in (entry / "fd").iterdir())
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environ = (entry / "environ").read_bytes()
            if folder.encode() in environ or f"{folder}/session_" in files + line:
                found[int(entry.name)] = line
        except (OSError, ValueError):
            continue  # not a process, or one that has just ended
    found.pop(os.getpid(), None)
    return found


def end_ray(folder: str) -> None:
    """End every Ray process whose RAY_TMPDIR this is, and no other; then remove it."""
    deadline = time.monotonic() + 20
    while (left := ray_processes(folder)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(ProcessLookupError):  # its parent took it along
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """A Ray cluster of one node, of its own ports and folder, with token authentication.

    variables: what its workers have in their environment. dashboard: take submitted jobs.
    """

    def __init__(self, variables: dict, dashboard: bool):
        self.folder = tempfile.mkdtemp(prefix="wm-", dir="/tmp")  # short: Ray's sockets lie there
        self.port = free_port()
        self.dashboard = free_port() if dashboard else None
        self.env = environment(
            {
                **variables,
                "RAY_TMPDIR": self.folder,
                "TMPDIR": self.folder,
                # The same for whoever starts the cluster and whoever connects to it.
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(16),
                "RAY_USAGE_STATS_ENABLED": "0",
            }
        )

    def start(self) -> None:
        """Start it, and wait until it takes jobs."""
        flags = {
            "node-ip-address": "127.0.0.1",
            "port": self.port,
            "include-dashboard": str(bool(self.dashboard)).lower(),
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self.dashboard,
            "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "ray-client-server-port": free_port(),
            "metrics-export-port": free_port(),
            "temp-dir": self.folder,
            "num-cpus": 2,
        }
        parts = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        log = Path(self.folder, "start.log")
        # A file, not a pipe, which the cluster would hold open.
        with log.open("w") as output:
            done = subprocess.run(
                [*RAY, "start", "--head", *parts],
                env=self.env,
                cwd=self.folder,
                timeout=120,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        assert done.returncode == 0, log.read_text()


@functools.cache
def shared_cluster() -> dict:
    """What a job connects with to this process's own cluster, which the first call starts.

    Returns its environment. A job that starts its own takes three seconds of a core more, and the
    suite runs dozens. The cluster ends with this process.
    """
    cluster = Cluster({"PYTHONPATH": ROOT}, dashboard=False)
    atexit.register(end_ray, cluster.folder)
    cluster.start()
    own = {name: cluster.env[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    return environment({**own, "RAY_ADDRESS": f"127.0.0.1:{cluster.port}"})
