"""The precision that encoders take where none is given."""

import os
from pathlib import Path

import ray
import torch
from ray.exceptions import GetTimeoutError

from pipeline.cluster.connect import RAY_ADDRESS, connect
from tokenizer.errors import UsageError

# Seconds that one of the cluster's GPUs may take to become free and answer.
ANSWER_SECONDS = 120


def fast_precision(device: str) -> str:
    """bf16 where encoders will run on GPUs that compute in it, else fp32.

    device: "auto", "cpu" or "cuda". Connects to the cluster if it may have GPUs. Raises UsageError
    where no GPU answers.
    """
    may_have = os.environ.get(RAY_ADDRESS) or list(Path("/dev").glob("nvidia[0-9]*"))
    if device == "cpu" or not may_have:
        return "fp32"
    connect()
    if not ray.cluster_resources().get("GPU"):
        return "fp32"
    ask = ray.remote(num_gpus=1, num_cpus=0)(_has_bf16)
    try:
        return "bf16" if ray.get(ask.remote(), timeout=ANSWER_SECONDS) else "fp32"
    except GetTimeoutError as error:
        raise UsageError(
            f"no GPU was free in {ANSWER_SECONDS} s to ask whether it has bf16",
            "give fp32 or bf16",
            value="auto",
            argument="precision",
        ) from error


def _has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
