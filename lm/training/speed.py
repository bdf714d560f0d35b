"""Training speed: the matrix FLOPs of a training, as a share of what the device can do."""

import time

import torch
from torch import Tensor

from lm.config import LMConfig

# Long enough for the clock to rise to its full rate, short beside any training.
MEASURED_SECONDS = 0.5


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest square matrix product measured on this device, in this dtype."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, began = float("inf"), time.monotonic()
    while time.monotonic() - began < MEASURED_SECONDS:
        _synchronize(device)
        start = time.perf_counter()
        torch.matmul(a, b)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class FlopCounter:
    """Counts the FLOPs of one process between two lines of the log."""

    def __init__(self, config: LMConfig, device_flops: float) -> None:
        """device_flops: FLOP/s that the process's device can do."""
        self.config, self.device_flops = config, device_flops
        self.done = 0.0

    def count(self, utterance: Tensor) -> None:
        """Add a forward and backward pass over rows. utterance: (B, T), of each position."""
        keys = float(_mean_keys(utterance, self.config))
        # A backward pass has twice the matrix products of a forward pass.
        self.done += 3 * self.config.flops_per_token(keys) * utterance.numel()

    def take_utilisation(self, seconds: float) -> float:
        """The share of the device's FLOP/s that was used in `seconds`; counting starts anew."""
        share = self.done / seconds / self.device_flops
        self.done = 0.0
        return share


def _mean_keys(utterance: Tensor, config: LMConfig) -> Tensor:
    """Mean number of keys that a query attends to, in rows (B, T) of utterances."""
    position = torch.arange(utterance.shape[1], device=utterance.device)
    begins = torch.ones_like(utterance, dtype=torch.bool)
    begins[:, 1:] = utterance[:, 1:] != utterance[:, :-1]
    first = torch.where(begins, position, 0).cummax(1).values
    past = (position - position % config.chunk - first).clamp(max=config.window)
    return past.float().mean() + config.chunk


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
