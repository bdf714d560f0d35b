"""The Ray cluster a job runs on: the one it was submitted to, or its own on this machine."""

import atexit
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import ray._private.ray_constants
import ray._private.utils

from pipeline.cluster.code import PROJECT
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.scratch import remove_abandoned

# Seconds that a cluster's head may take to answer.
ANSWER_SECONDS = 10
# A socket's path has at most 107 bytes, and Ray puts up to 67 behind the folder for its files.
LONGEST_TMPDIR = 40
SHARED_MEMORY = "/dev/shm"
# Bytes of it that are enough for the batches on their way, of any number of encoders.
LEAST_SHARED = 2 << 30
# The share of the memory that Ray itself would take.
RAYS_SHARE = 0.3
RAY_ADDRESS = "RAY_ADDRESS"
# How HTTP/2 begins: an empty frame of settings, of type 4, which the server sends too.
SETTINGS_FRAME = b"\0\0\0\4\0\0\0\0\0"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME


def connect() -> None:
    """Connect to the cluster that RAY_ADDRESS names (`ray job submit` sets it), or start one here.

    Workers of a cluster started here find the project from any working directory; those of another
    cluster get it with the job, as its working directory. Raises UsageError for a cluster that does
    not answer or runs another version of Ray, and for a machine on which Ray cannot start.
    """
    if ray.is_initialized():
        return
    address = os.environ.get(RAY_ADDRESS)
    with _own_signals(), _in_project():
        try:
            if address is None:
                _start()
            else:
                _check_address(address)
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except UsageError:
            raise
        except Exception as error:  # Ray raises many kinds, this very one among them
            where = f"the cluster at {address}" if address else "Ray on this machine"
            problem = f"{where} cannot be used: {one_line(error)}"
            remedy = "start the job in that cluster's own environment, or unset RAY_ADDRESS"
            raise UsageError(
                problem, remedy if address else "see Ray's own message, or try again"
            ) from error


def _start() -> None:
    store_bytes = _store_bytes()
    # A cluster for one job on one machine is private: no usage statistics, no dashboard.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # And it listens to this machine alone. Ray has this switch for desktop systems, where another
    # address would make the firewall ask.
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    print("starting Ray on this machine ...", file=sys.stderr, flush=True)
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=store_bytes,
        _temp_dir=_short_tmpdir(),
    )
    atexit.register(disconnect)


def _store_bytes() -> int | None:
    """What Ray's processes may hold in the memory that they share; None leaves it to Ray.

    Ray keeps it on disk where shared memory has no room, but refuses to if it would be large.
    Raises UsageError for a machine without any.
    """
    if sys.platform != "linux":
        return None
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError as error:
        raise UsageError(
            f"there is no shared memory, which Ray needs ({one_line(error)})",
            "mount a tmpfs there; in a container its size is an option of what starts that",
            value=SHARED_MEMORY,
        ) from error
    if free >= LEAST_SHARED:
        return None
    print(
        f"note: {SHARED_MEMORY} has only {free >> 20:,} MB free: Ray keeps on disk what its "
        "processes exchange",
        file=sys.stderr,
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(LEAST_SHARED, int(RAYS_SHARE * memory))


def _short_tmpdir() -> str | None:
    """A folder for Ray's sockets, where the machine's own is too long; None where it is not."""
    asked = os.environ.get("RAY_TMPDIR")
    folder = asked or tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_TMPDIR:
        return None
    if asked is None and os.access("/tmp", os.W_OK):
        return "/tmp/ray"
    raise UsageError(
        f"its {len(os.fsencode(folder))} bytes are too long for the sockets that Ray makes there",
        f"set RAY_TMPDIR to a folder of at most {LONGEST_TMPDIR} bytes",
        value=folder,
    )


def _check_address(address: str) -> None:
    """Raises UsageError, within seconds, for an address at which no Ray cluster can be."""
    if address in ("auto", "local"):
        return
    match = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if match is None:
        raise UsageError(
            "it is no address of a Ray cluster",
            "give host:6379, the head's own port; the dashboard's http address is for "
            "`ray job submit`",
            value=f"{RAY_ADDRESS}={address}",
        )
    try:
        _greet(match[1], int(match[2]))
    except OSError as error:
        raise UsageError(
            f"no Ray cluster answers there ({one_line(error)})",
            "start it, correct the address, or unset it to run on this machine",
            value=f"{RAY_ADDRESS}={address}",
        ) from error


def _greet(host: str, port: int) -> None:
    """Begin a connection as a client of gRPC does. Raises OSError unless one is answered.

    Ray itself would try again and again at a port of something else, such as its own dashboard.
    """
    with socket.create_connection((host, port), timeout=ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.sendall(GREETING)
        answer = connection.recv(len(SETTINGS_FRAME), socket.MSG_WAITALL)
        if answer[3:4] != SETTINGS_FRAME[3:4]:
            raise OSError("what listens there is no Ray")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the job's answer to SIGTERM: Ray has one in Python, and a C++ one that prints stacks.

    A SIGTERM that comes in between is answered afterwards: Ray starts processes then, and an
    exception in a callback of a fork is lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    answer = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    rays = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = rays
        signal.signal(signal.SIGTERM, answer)
        if came:
            signal.raise_signal(signal.SIGTERM)


@contextmanager
def _in_project() -> Iterator[None]:
    """Be in the project's folder: Ray's workers look for modules where the driver was first."""
    before = Path.cwd()
    os.chdir(PROJECT)
    try:
        yield
    finally:
        os.chdir(before)


def disconnect() -> None:
    """Stop the cluster that `connect` started on this machine, if it started one.

    Ray's own processes compete with a training for cores: on two cores they cost a fifth of its
    speed. What they were doing when they were stopped left temporary folders, which are removed.
    """
    if RAY_ADDRESS not in os.environ and ray.is_initialized():
        ray.shutdown(wait_for_processes=True)
        remove_abandoned()
