"""How fast a training goes: tokens a second, and the share of what the device could multiply."""

import time

import torch
from torch import Tensor

from lm.config import LMConfig

# Long enough for a clock that was slow to come up, short beside any training.
MEASURED_SECONDS = 0.5


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest square product of this device, in this type, with its threads."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, began = float("inf"), time.monotonic()
    while time.monotonic() - began < MEASURED_SECONDS:
        _finish(device)
        start = time.perf_counter()
        torch.matmul(a, b)
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Speed:
    """Counts what is done between two lines of a log."""

    def __init__(self, config: LMConfig, flops: float, processes: int) -> None:
        """flops: of one process's device a second."""
        self.config, self.flops, self.processes = config, flops, processes
        self.start()

    def start(self) -> None:
        """Count from here."""
        self.done, self.began = 0.0, time.monotonic()

    def count(self, utterance: Tensor) -> None:
        """(B, T), the utterance of each position: one forward and backward pass of these rows."""
        keys = float(_keys(utterance, self.config))
        # The products of a backward pass are twice those of a forward pass.
        self.done += 3 * self.config.flops_per_token(keys) * utterance.numel()

    def measure(self, tokens: float) -> tuple[float, float, float]:
        """(tokens a second over all processes, share of the FLOP/s, seconds) since the start."""
        seconds = time.monotonic() - self.began
        return tokens / seconds, self.done / seconds / self.flops, seconds


def _keys(utterance: Tensor, config: LMConfig) -> Tensor:
    """Mean number of keys that a query sees, in rows (B, T) of utterances."""
    place = torch.arange(utterance.shape[1], device=utterance.device)
    begins = torch.ones_like(utterance, dtype=torch.bool)
    begins[:, 1:] = utterance[:, 1:] != utterance[:, :-1]
    first = torch.where(begins, place, 0).cummax(1).values
    past = (place - place % config.chunk - first).clamp(max=config.window)
    return past.float().mean() + config.chunk


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
