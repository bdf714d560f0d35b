"""The processes of one training: which of them this is, and sums over all.

Without torch.distributed there is one process, and nothing is sent.
"""

import torch
from torch import Tensor, distributed


def process_rank() -> int:
    """The number of this process; 0 when it is the only one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def process_count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def sum_over_processes(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place, with one message.

    All tensors have the same dtype and device.
    """
    if process_count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))
