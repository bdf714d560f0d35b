"""The learning rate of each step: linear warm-up, then half a cosine."""

import math

import torch

# The learning rate at the end, as a share of the peak.
FINAL_SHARE = 0.05


def learning_rate_at(step: int, steps: int, peak: float, warm_up: float) -> float:
    """The learning rate of step `step` (from 0) of `steps`. warm_up: share of the steps."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return peak * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * done)) / 2)


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Set the rate of the coming step; each parameter group takes its own multiple of it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["rate_multiple"] * rate
