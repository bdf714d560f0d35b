"""Proof that every process of a cluster runs the driver's code.

Ray looks for modules in the driver's working folder first, and a cluster's nodes may have another
version installed: a run would then be wrong, and end well.
"""

import functools
import hashlib
import platform
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("tokenizer", "lm", "pipeline", "jobs")


class OtherCode(RuntimeError):
    """A worker runs other code than the driver; the message says which."""


@functools.cache
def fingerprint() -> str:
    """SHA-256 over the sources that this process imports, and the version of Python."""
    digest = hashlib.sha256(".".join(platform.python_version_tuple()[:2]).encode())
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            digest.update(path.relative_to(PROJECT).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def check_code(expected: str) -> None:
    """Raises OtherCode unless this process runs the driver's code. expected: its fingerprint."""
    if fingerprint() != expected:
        raise OtherCode(f"the worker's code, in {PROJECT}, is not the driver's")
