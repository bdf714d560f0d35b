"""What takes the training's steps, and how large they are."""

import math

import torch
from torch import distributed, nn

# The rate at the end, as a share of the highest.
LAST_RATE = 0.05
BETAS = (0.9, 0.95)
# Muon's rate for the matrices, in AdamW's for the rest.
MATRIX_RATE = 2.0


def make_optimizers(
    model: nn.Module, kind: str, rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW, or with kind "muon" Muon for the layers' matrices and AdamW for the rest.

    Only the weights of linear layers decay: not norms, biases, embeddings, or the table of position
    biases. Muon (Jordan et al. 2024) as PyTorch has it, its step scaled to AdamW's (Moonshot, arXiv
    2502.16982).
    """
    linear = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inner = {name for name in linear if kind == "muon" and "layers." in name}
    matrices = [p for name, p in parameters if name in linear - inner]
    others = [p for name, p in parameters if name not in linear]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=rate,
            betas=BETAS,
            fused=True,
        )
    ]
    if inner:
        optimizers.append(
            torch.optim.Muon(
                [p for name, p in parameters if name in inner],
                lr=rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer, share in zip(optimizers, (1.0, MATRIX_RATE)):
        for group in optimizer.param_groups:
            group["share"] = share
    return optimizers


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Of the coming step."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * rate


def rate_at(step: int, steps: int, highest: float, warm_up: float) -> float:
    """The learning rate: linear warm-up over a share of the steps, then half a cosine."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return highest * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return highest * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)


def sum_over_processes(tensors: list[torch.Tensor]) -> None:
    """In place, in one message; nothing to do where there is one process."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))
