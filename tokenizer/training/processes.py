"""The processes of one training: which of them this is, and sums over all.

Without torch.distributed there is one process, and nothing is sent.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


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


def summed_in_backward(model: nn.Module, device: torch.device) -> DistributedDataParallel | None:
    """The model, wrapped: a backward pass through it sums gradients over all processes.

    The sums of the last layers are sent while those before them are computed. None where there is
    one process. Every parameter that is trained must have a part in every forward pass.
    """
    if process_count() == 1:
        return None
    devices = [device] if device.type == "cuda" else None
    parallel = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    # By itself it gives the mean over processes, which may have had targets of other numbers.
    parallel.register_comm_hook(None, _sum_bucket)
    return parallel


def without_sums(parallel: DistributedDataParallel | None) -> AbstractContextManager:
    """For passes whose gradients are only added up, before the last one of a step."""
    return nullcontext() if parallel is None else parallel.no_sync()


# PyTorch reads the annotations of such a function.
GradBucket: Any = distributed.GradBucket  # type: ignore[attr-defined]


def _sum_bucket(_: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    sending = distributed.all_reduce(bucket.buffer(), async_op=True)
    return sending.get_future().then(lambda future: future.value()[0])
