"""Proof that every process of a cluster runs the driver's code, and decodes with its packages.

Ray looks for modules in the driver's working folder first, and a cluster's nodes may have other
versions installed: a run would then be wrong, and end well.
"""

import functools
import hashlib
import json
import platform
import re
import socket
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tokenizer.errors import UsageError

PROJECT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("tokenizer", "lm", "pipeline", "jobs")
# Packages that decide what is audio, and which tokens it gets. Of another build of the same
# version, such as torch's for a GPU, the tokens are the same but for the last bit.
DECISIVE = ("av", "numpy", "soundfile", "soxr", "torch")
CODE = "wavmill's code"


# How the reason ends that Ray gives, with the whole stack, of a task or an actor whose process
# cannot run the driver's code, and the types of errors that say so.
UNFIT = re.compile(r"\b(?:OtherCode|ModuleNotFoundError|ImportError): .*")


class OtherCode(RuntimeError):
    """A worker runs other code than the driver; the message says which."""


def unfit(error: BaseException) -> str | None:
    """Why the process of a task or an actor cannot run the driver's code; None of another error.

    It has other code, or lacks a package: Ray gives both as text, where it could not even load the
    task or the actor.
    """
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, (OtherCode, ImportError)):
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    # Of the errors of Ray's own the last line is the one that was raised.
    last = (str(error).strip().splitlines() or [""])[-1]
    found = UNFIT.search(last)
    return found[0] if found else None


def node_refused(why: str) -> UsageError:
    """The error to raise when a node of the cluster cannot run the driver's code."""
    return UsageError(
        f"a node of the cluster cannot be used: {why}",
        "give all nodes the driver's code and packages",
    )


@functools.cache
def fingerprint() -> str:
    """What this process runs, as a JSON object of names and what is there under each.

    SHA-256 over the project's sources, the version of Python, and of each package that decides the
    output its version with a digest of the module that is imported under its name.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            digest.update(path.relative_to(PROJECT).as_posix().encode())
            digest.update(path.read_bytes())
    found = {CODE: digest.hexdigest()[:12]}
    found["Python"] = ".".join(platform.python_version_tuple()[:2])
    return json.dumps({**found, **{name: _version(name) for name in DECISIVE}})


def _version(package: str) -> str:
    """A package's version, without that of its build, and a digest of its first file."""
    spec = find_spec(package)
    if spec is None:
        return "not installed"
    try:
        installed = version(package).partition("+")[0]
    except PackageNotFoundError:
        installed = "of no version"
    content = Path(spec.origin).read_bytes() if spec.origin else b""
    return f"{installed} ({hashlib.sha256(content).hexdigest()[:6]})"


def check_code(expected: str) -> None:
    """Raises OtherCode unless this process runs the driver's code. expected: its fingerprint."""
    wanted, found = json.loads(expected), json.loads(fingerprint())
    different = [
        f"{name} {found.get(name)}, not {wanted[name]}"
        for name in wanted
        if found.get(name) != wanted[name]
    ]
    if different:
        where = f"on {socket.gethostname()}, in {PROJECT}"
        raise OtherCode(f"what runs {where} is not the driver's: {'; '.join(different)}")
