"""How the threads of a process wait for each other: they spin for a moment, and then they sleep.

GNU OpenMP, which comes with PyTorch, spins for milliseconds by default. On cores that other
processes want, a waiting thread then takes the time of the one that it waits for.
`jobs/bench/shared_cpu.py` measures it.
"""

import os

SPIN_COUNT = "GOMP_SPINCOUNT"
# Turns of the loop that a thread spins in: long enough for most waits within a batch, and far
# shorter than what the system gives a process at a time.
SPINS = 3000


def waiting_variables() -> dict[str, str]:
    """Environment variables for a process that is to compute on the CPU.

    OpenMP reads them once, when torch is imported. The user's own settings win, from the
    environment of this process.
    """
    names = (SPIN_COUNT, "OMP_WAIT_POLICY")
    own = {name: os.environ[name] for name in names if name in os.environ}
    return own or {SPIN_COUNT: str(SPINS)}
