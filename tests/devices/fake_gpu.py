"""A GPU that is not there: tensors of a device and a shape, without numbers.

PyTorch's fake tensors raise where a kernel would get tensors of two devices or of dtypes that it
does not take. `Watch` counts kernels and copies, and notes where the host would wait.
"""

from collections import Counter
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# What needs a number of the device on the host, or a shape that depends on one.
WAITS = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.equal,
    aten.repeat_interleave,
    aten.bincount,
}


class Watch(TorchDispatchMode):
    """kernels, copies in and out, and what waits, by name."""

    supports_higher_order_operators = True

    def __init__(self):
        super().__init__()
        self.kernels, self.waits, self.inside = Counter(), [], 0
        self.to_device, self.to_host, self.copies = 0, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sources, results = list(tensors((args, kwargs))), list(tensors(out))
        packet = getattr(func, "overloadpacket", func)
        on_device = any(x.is_cuda for x in (*sources, *results))
        if not on_device or self.inside:
            return out
        if packet in WAITS:
            self.waits.append(str(func))
        elif packet in (aten._to_copy, aten.copy_, aten.to):
            target, source = results[0], sources[packet is aten.copy_]
            if source.is_cuda and not target.is_cuda:
                self.to_host += 1
                self.copies.append(f"{func} to the host, {tuple(source.shape)}")
            elif target.is_cuda and not source.is_cuda:
                self.to_device += 1
                self.copies.append(f"{func} to the device, {tuple(source.shape)}")
            elif target is not source:
                self.kernels[str(func)] += 1
        elif not is_view(func):
            self.kernels[str(func)] += 1
        return out

    @contextmanager
    def compiled(self, kernels):
        """Count this many in place of what runs inside: it is compiled on a GPU."""
        self.kernels["compiled"] += kernels
        self.inside += 1
        yield
        self.inside -= 1


def tensors(values):
    """All tensors in nested sequences and dictionaries."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)


def is_view(func):
    """Whether an operator only gives another view of memory, or memory without a kernel."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return False
    aliases = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    return (
        aliases or "empty" in schema.name or schema.name in ("aten::_unsafe_view", "prim::device")
    )


@contextmanager
def fake_gpu():
    """Everything inside is fake; real tensors become so where they are used."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        torch.no_grad(),
        patch.object(torch.nn.Module, "to", moved),
        # Autocast would turn itself off.
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda: True),
    ):
        yield


def moved(module, *where):
    """Module.to, which cannot swap fake parameters in place."""
    device = next((w for w in where if not isinstance(w, torch.dtype)), None)
    dtype = next((w for w in where if isinstance(w, torch.dtype)), None)
    for each in module.modules():
        for values in (each._parameters, each._buffers):
            for name, value in values.items():
                if value is not None:
                    kind = dtype if dtype and value.is_floating_point() else value.dtype
                    kept = value.to(device or value.device, kind)
                    is_weight = values is each._parameters
                    values[name] = torch.nn.Parameter(kept, False) if is_weight else kept
    return module
