"""Huge pages for weights: a step of a language model reads every one of them once.

Linux gives memory in pages of 4 KB, and 2 MB where a program asks for it (its default, `madvise`).
Looking up the pages of 600 MB then takes time of its own. PyTorch asks if a variable says so.
"""

import os

ENABLED = "THP_MEM_ALLOC_ENABLE"


def page_variables() -> dict[str, str]:
    """The environment variable for a process that is to compute on the CPU.

    PyTorch reads it at its first allocation. The user's own setting wins; "0" asks for nothing.
    """
    return {ENABLED: os.environ.get(ENABLED, "1")}
