"""The score that an utterance does not have, and why; and which package took a score."""

from importlib.metadata import version
from importlib.util import find_spec

from tokenizer.errors import UsageError


class Unscored(ValueError):
    """A score cannot be taken of an utterance; the message says why, the same for all its like."""


def needed(module: str, package: str) -> str:
    """The name and version of a package that takes a score, such as "pystoi 0.4.1".

    module: what is imported. Raises UsageError if it is not installed.
    """
    if find_spec(module) is None:
        raise UsageError(
            f"it needs the package {package}", "install it: pip install 'wavmill[scores]'"
        )
    return f"{package} {version(package)}"
