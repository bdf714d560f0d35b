"""How a job runs: from errors to exit status, one line and status 2 for what cannot be used."""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.huge_pages import page_variables
from pipeline.openmp import waiting_variables
from tokenizer.errors import ClusterFailed, TrainingFailed, UsageError, one_line
from tokenizer.storage.retries import StoreFailed

# Packages that come with an extra of pyproject.toml, by the name that is imported.
EXTRAS = {
    "braceexpand": "pipeline",
    "faiss": "pipeline",
    "huggingface_hub": "pipeline",
    "jiwer": "scores",
    "librosa": "scores",
    "onnxruntime": "scores",
    "pesq": "scores",
    "pkg_resources": "scores",  # of setuptools; webrtcvad imports it
    "pocketsphinx": "scores",
    "pystoi": "scores",
    "ray": "pipeline",
    "resemblyzer": "scores",
    "s3fs": "pipeline",
    "speechmos": "scores",
    "starlette": "serve",
    "swift_f0": "scores",
    "tensorboardX": "train",
    "transformers": "pipeline",
    "uvicorn": "serve",
    "webdataset": "pipeline",
    "webrtcvad": "scores",
    "websockets": "serve",
}
# What a shell reports for a process that SIGINT, SIGPIPE or SIGTERM ended.
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143
# Errors of a disk: there is nothing wrong with the input or the code.
DISK_ERRORS = {
    errno.ENOSPC: "free some room",
    errno.EDQUOT: "free some room",
    errno.EROFS: "give a folder that can be written to",
}


def unusable(flag: str, value: object, problem: str, remedy: str) -> UsageError:
    """The error to raise for a flag that cannot be used."""
    return UsageError(problem, remedy, value=value, argument=flag)


@contextmanager
def naming(flag: str, value: object = None, remedy: str = "") -> Iterator[None]:
    """Attribute a UsageError raised in the body to this flag, unless it names an argument already.

    value, remedy: filled in where an error about this flag has none of its own.
    """
    try:
        yield
    except UsageError as error:
        error.argument = as_flag(error.argument) if error.argument else flag
        if error.argument == flag:
            error.value = value if error.value is None else error.value
            error.remedy = error.remedy or remedy
        raise


def as_flag(argument: str) -> str:
    """The flag of a library's parameter or settings field: it has the same name."""
    return argument if argument.startswith("--") else f"--{argument.replace('_', '-')}"


def named(flag: str, function: Callable[..., Any], *values: object, **more: object) -> Any:
    """Call a function, and attribute its UsageError to this flag and its first value."""
    with naming(flag, values[0] if values and isinstance(values[0], str) else None):
        return function(*values, **more)


def run(main: Callable[[], int]) -> None:
    """Call a job's main and exit with its status.

    1 and one line on stderr for a training that failed, a cluster without an encoder left, a store
    that does not answer or a full disk; 2 and one line for unusable arguments; 130 for Ctrl-C, 143
    for SIGTERM, 141 when whoever read stdout has gone. A second Ctrl-C or SIGTERM ends the process
    at once.
    """
    os.environ.update(waiting_variables() | page_variables())  # before main() imports PyTorch
    _Terminated.came = False
    # Unless the shell made it ignore Ctrl-C, as it does in the background.
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if handled:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    status: int | str | None = None
    try:
        status = _status(main)
    finally:
        if handled and status != INTERRUPTED:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(status)


def _status(main: Callable[[], int]) -> int | str | None:
    try:
        try:
            status: int | str | None = main()
        except SystemExit as end:  # argparse's, after --help or an unusable flag
            status = end.code
        sys.stdout.flush()
        return status
    except UsageError as error:
        error.rename(as_flag)
        return _refused(str(error))
    except (ClusterFailed, TrainingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _refused(f"{package} is not installed; pip install 'wavmill[{EXTRAS[package]}]'")
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        return BROKEN_PIPE
    except OSError as error:
        if not isinstance(error, StoreFailed) and error.errno not in DISK_ERRORS:
            raise
        remedy = DISK_ERRORS.get(error.errno or 0, "see that it answers")
        where = f"{error.filename}: " if error.filename else ""
        what = error.strerror if where else one_line(error)
        problem = f"error: {where}{what}; {remedy} and run the same command again"
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue", file=sys.stderr)
        return TERMINATED if _Terminated.came else INTERRUPTED


def _refused(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 2


def _interrupt(*_: object) -> None:
    """The first Ctrl-C: raise KeyboardInterrupt, and let the next one end the process.

    A library may swallow the first, and even keep a lock that it held then; and Ray's clean-up
    after it takes seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a job as Ctrl-C does.

    came: whether there was one. Ray raises a KeyboardInterrupt of its own in place of this one.
    """

    came = False


def _terminate(*_: object) -> None:
    """The first SIGTERM: as the first Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _Terminated.came = True
    raise _Terminated


def _stdout_is_closed() -> bool:
    """Whether stdout is the broken pipe, not a socket. If so, what is left to print is dropped."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Or the interpreter would try once more at exit, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
