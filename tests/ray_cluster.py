"""Ray clusters for tests: one shared by most jobs, and those that one test starts and ends.

As a script it is the process in which most jobs run: see JobProcess.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what runs in the background ignore Ctrl-C, and jobs would inherit it from tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def environment(changes: dict | None = None) -> dict:
    """This process's environment with changes, without a Ray address; None removes a variable.

    Ray Train would notice the end of a training up to two seconds late. And a test that has
    started a Ray in this process has left the switch for one machine alone.
    """
    ours = {
        "RAY_ADDRESS": None,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": None,
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
    }
    merged = {**os.environ, **ours, **(changes or {})}
    return {name: str(value) for name, value in merged.items() if value is not None}


# The system may give out a port again as soon as it is closed.
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


# Processes that are known not to be of a Ray: (its folder, process id, start of the process). Tests
# that wait for a process of Ray look many times a second, which would take most of a core.
OTHERS: set[tuple[str, str, str]] = set()
# Seconds after which a process does not become another program any more.
SETTLED = 5


def ray_processes(folder: str) -> dict[int, str]:
    """{process id: command line} of the Ray processes whose RAY_TMPDIR this is.

    They have it in their environment, or in their open files: Ray's agents clear their environment.
    """
    found = {}
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                start = stat.read().rpartition(")")[2].split()[19]
            if (folder, name, start) in OTHERS:
                continue
            entry = Path("/proc", name)
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if folder in line or folder.encode() in (entry / "environ").read_bytes():
                found[int(name)] = line
                continue
            files = " ".join(os.readlink(link) for link in (entry / "fd").iterdir())
            if f"{folder}/session_" in files:
                found[int(name)] = line
            elif now - int(start) / os.sysconf("SC_CLK_TCK") > SETTLED:
                OTHERS.add((folder, name, start))
        except (OSError, ValueError):
            continue  # it has ended
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
    """A Ray cluster of one node with its own ports and folder, and token authentication.

    variables: added to its workers' environment. dashboard: whether jobs can be submitted to it.
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
                # The same mode for the cluster and for its clients.
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(16),
                "RAY_USAGE_STATS_ENABLED": "0",
            }
        )

    def start(self, **more: object) -> None:
        """Start it, and wait until it takes jobs. more: flags of `ray start`."""
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
            **more,
        }
        parts = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        self.ray_start("--head", "--no-monitor", *parts)

    def job_environment(self, more: dict) -> dict:
        """The environment of a job that connects to it. more: variables to add."""
        token = {name: self.env[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        return environment({**more, **token, "RAY_ADDRESS": f"127.0.0.1:{self.port}"})

    def ray_start(self, *flags: str, env: dict | None = None) -> None:
        """`ray start`. env: variables to add, which the node's processes have too."""
        log = Path(self.folder, "start.log")
        # Not a pipe: the cluster's processes would hold it open.
        with log.open("w") as output:
            done = subprocess.run(
                # The monitor of logs would read them for as long as the node lives, for nobody.
                [*RAY, "start", "--include-log-monitor=false", *flags],
                env={**self.env, **(env or {})},
                cwd=self.folder,
                timeout=120,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        assert done.returncode == 0, log.read_text()


@functools.cache
def store_variables() -> dict:
    """The environment of whoever uses the S3 server of this session, whether it runs yet or not."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@functools.cache
def _shared() -> Cluster:
    """A job that starts its own cluster takes three more seconds of a core, and the suite runs
    dozens of jobs. This one ends with this process, and reaches the session's S3 server.
    """
    cluster = Cluster({"PYTHONPATH": ROOT, **store_variables()}, dashboard=False)
    atexit.register(end_ray, cluster.folder)
    cluster.start()
    return cluster


def shared_cluster() -> dict:
    """The environment of a job that connects to the shared cluster; the first call starts it."""
    return _shared().job_environment(store_variables())


def shared_processes() -> dict[int, str]:
    """{process id: command line} of the shared cluster's processes."""
    return ray_processes(_shared().folder)


class JobProcess:
    """A process that runs one job after the other, connected to one cluster.

    A job in a process of its own would spend most of a test's time on imports, its own and those of
    new workers. environment: gives the variables of a job that connects to the cluster; asked for
    when the first job comes.
    """

    def __init__(self, environment: Callable[[], dict]) -> None:
        self.environment, self.lock = environment, threading.Lock()
        self.process: subprocess.Popen | None = None

    def run(self, command: list[str], timeout: float) -> subprocess.CompletedProcess:
        """Run [Python, script, *flags] as that command would, and wait for its end."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.process = subprocess.Popen(
                    [sys.executable, __file__],
                    cwd=ROOT,
                    env=self.environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                atexit.register(self.end)
            self.process.stdin.write(json.dumps(command[1:]).encode() + b"\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], timeout)[0]:
                self.process.kill()
                raise subprocess.TimeoutExpired(command, timeout)
            answer = self.process.stdout.readline()
            assert answer, f"{command} ended the process that it ran in"
            return subprocess.CompletedProcess(command, *json.loads(answer))

    def end(self) -> None:
        """End the process, if a job has begun it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


# For jobs that need no Ray of their own.
JOBS = JobProcess(shared_cluster)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(_run_script(json.loads(line))) + "\n")
        answers.flush()


def _run_script(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a script. It finds and leaves this process as it was."""
    path, variables = list(sys.path), dict(os.environ)
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.argv = arguments
        sys.path.insert(0, "")  # the job replaces the first, its own folder
        status: int | str | None = 0
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as end:
            status = end.code
        except Exception:  # as Python does: the traceback on stderr, and status 1
            traceback.print_exc()
            status = 1
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        gc.collect()  # handles of actors, which would go on
        os.chdir(ROOT)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(variables)
        for number, answer in signals.items():
            signal.signal(number, answer)
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return int(status or 0), texts[0], texts[1]


if __name__ == "__main__":
    _serve()
