"""What torch.compile makes of the encoder for an H100: few kernels, and each fits the device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray_cluster import ROOT
from test_fake_gpu import KERNELS

SHARED_MEMORY = 232_448  # bytes that a block of an H100 may have


@pytest.mark.slow
def test_kernels_are_few_and_fit(tmp_path):
    program = Path(__file__).with_name("h100.py")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert {name: each["kernels"] for name, each in found.items()} == KERNELS
    for each in found.values():
        assert each["shared"] and max(each["shared"].values()) <= SHARED_MEMORY
    # Attention is one kernel, and the others only norm, add or activate.
    assert sum("flex_attention" in name for name in found["layer"]["shared"]) == 1
