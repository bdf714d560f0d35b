"""What a job sets for itself before it computes on a CPU: how threads wait, and huge pages."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from pipeline.huge_pages import ENABLED, page_variables
from pipeline.openmp import SPINS, waiting_variables

# A job's main imports PyTorch, whose OpenMP reads the environment then. That library alone loads in
# no time.
JOB = """
import ctypes, importlib.util, os, pathlib
from jobs.cli.errors import run

def main():
    torch = pathlib.Path(importlib.util.find_spec("torch").origin).parent
    ctypes.CDLL(next(torch.glob("lib/libgomp*")))
    print(os.environ["THP_MEM_ALLOC_ENABLE"])
    return 0

run(main)
"""


@pytest.mark.parametrize(
    "users, spins, pages",
    [
        ({}, SPINS, "1"),
        ({"GOMP_SPINCOUNT": "7"}, 7, "1"),
        ({"OMP_WAIT_POLICY": "passive"}, 0, "0"),
    ],
    ids=["none", "count", "policy"],
)
def test_a_job_spins_for_a_moment_unless_the_user_says_otherwise(users, spins, pages, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(ENABLED, raising=False)
    if pages == "0":
        monkeypatch.setenv(ENABLED, pages)
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", JOB],
        env={**os.environ, "OMP_DISPLAY_ENV": "verbose"},
        cwd=ROOT,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)[1] == str(spins)
    assert done.stdout.split() == [pages]
    assert page_variables() == {ENABLED: pages}
    # What encoders and the processes of trainings get.
    assert waiting_variables() == (users or {"GOMP_SPINCOUNT": str(SPINS)})
