"""What Inductor makes of the encoder's functions for an H100, on a machine without a GPU.

PyTorch traces with fake tensors; Inductor is told of an H100; Triton and NVIDIA's assembler, which
come with PyTorch, make machine code for it. Nothing runs. Run as a program, since it changes
PyTorch's modules for good: prints, as JSON, the kernels of each function and their shared memory.
"""

import collections
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import torch
import torch._dynamo.device_interface as interface
import torch._inductor.config
import torch._inductor.runtime.triton_helpers as triton_helpers
import torch._subclasses.fake_tensor as fake
from torch._guards import TracingContext, detect_fake_mode, tracing
from torch._inductor.compile_fx import compile_fx
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.graph import GraphLowering
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from tokenizer.encoder.gpu import functions as fn

H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "type": "cuda",
    "major": 9,
    "minor": 0,
    "multi_processor_count": 132,
    "total_memory": 80 << 30,
    "warp_size": 32,
    "max_threads_per_multi_processor": 2048,
    "regs_per_multiprocessor": 65536,
    "shared_memory_per_block": 49152,
    "shared_memory_per_block_optin": 232448,
    "shared_memory_per_multiprocessor": 233472,
    "gcnArchName": "",
    "L2_cache_size": 50 << 20,
    "is_integrated": 0,
}
FOLDER = Path(os.environ["TRITON_CACHE_DIR"])
ROWS, WIDTH, HEADS, CHANNELS = 4096, 1024, 16, 512
KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)''', device_str", re.S)
LAUNCH = re.compile(r"^\s*(?:buf\d+ = )?(?:\w+\.run\(|extern_kernels\.\w+\()", re.M)


class Driver:
    """Triton's driver, of a device that nothing is launched on."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_active_torch_device(self):
        return torch.device("cuda", 0)


def pretend():
    """Let Inductor see an H100."""
    properties = collections.namedtuple("Properties", H100)(**H100)
    cuda, device = torch.cuda, interface.CudaInterface
    cuda.is_available = device.is_available = staticmethod(lambda: True)
    cuda.device_count = device.device_count = staticmethod(lambda: 1)
    cuda.current_device = device.current_device = staticmethod(lambda: 0)
    cuda.get_device_properties = staticmethod(lambda *_: properties)
    device.get_device_properties = staticmethod(lambda *_: properties)
    device.Worker.get_device_properties = staticmethod(lambda *_: properties)
    device.Worker.current_device = staticmethod(lambda: 0)
    cuda.get_device_capability = lambda *_: (9, 0)
    device.get_compute_capability = staticmethod(lambda *_: 90)
    device.is_bf16_supported = staticmethod(lambda *_, **__: True)
    cuda._lazy_init = cuda.synchronize = lambda *_: None
    cuda._exchange_device = cuda._maybe_exchange_device = lambda _: 0
    cuda.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
    cuda.set_rng_state = lambda *_: None
    torch._C._cuda_getCurrentRawStream = lambda _: 0
    driver.set_active(Driver())
    triton_helpers.set_driver_to_gpu = lambda: None
    # They run small examples on the device.
    joint_graph.lazy_init = post_grad.lazy_init = lambda *_: None
    torch._inductor.config.joint_graph_constant_folding = False
    torch._inductor.config.benchmark_harness = False
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("torch") and "has_triton" in vars(module):
            module.has_triton = lambda *_: True


class WrittenError(Exception):
    """The code has been written; nothing is to be loaded."""


def code_of(function, *args):
    """The code that Inductor writes for fake arguments."""
    captured, written = [], []

    def capture(graph, inputs):
        captured.append((graph, inputs))
        return graph.forward

    def write(self):
        written.append(self.codegen()[0].value)
        raise WrittenError

    torch._dynamo.reset()
    torch.compile(function, backend=capture, fullgraph=True, dynamic=False)(*args)
    yield  # all functions are traced before anything pretends to be there
    graph, inputs = captured[0]
    GraphLowering.compile_to_module = write
    try:
        with tracing(TracingContext(detect_fake_mode(inputs))):
            compile_fx(graph, inputs)
    except torch._inductor.exc.InductorError:
        if not written:
            raise
    yield written[0]


def shared_memory(code):
    """Bytes of shared memory of each kernel in the code, as the assembled kernel states it."""
    sizes = {}
    for number, (name, source) in enumerate(KERNEL.findall(code)):
        path = FOLDER / f"kernel_{number}_{name[:40]}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kernel = getattr(module, name)
        sizes[name[:60]] = kernel._precompile_config(kernel.configs[0]).kernel.shared
    return sizes


def tensor(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, device="cuda", dtype=dtype)


def arguments():
    """Of each function, in the shape of wavlm-large."""
    pair, integers = (tensor(CHANNELS), tensor(CHANNELS)), torch.int32
    kernels, blocks = (3, 3, 3, 3, 2, 2), ROWS // 128
    rest = [
        fn.Convolution(tensor(CHANNELS, k * CHANNELS), tensor(CHANNELS), stride=2, norm=pair)
        for k in kernels
    ]
    front = fn.Front(
        tensor(10, CHANNELS),
        tensor(CHANNELS),
        first_stride=5,
        first_norm=pair,
        over_time=False,
        rest=tuple(rest),
        projection_norm=pair,
        projection=(tensor(WIDTH, CHANNELS), tensor(WIDTH)),
        eps=1e-5,
    )
    rows = tensor(ROWS, dtype=integers)
    samples = tensor(ROWS * 320 + 80, dtype=torch.float32)
    yield fn.front, (samples, rows, rows, front)
    window = fn.window_weight(tensor(WIDTH, WIDTH // 16, 128), 16)
    places = fn.Positions(window, tensor(WIDTH), back=64, replicate=False, norm=None, eps=1e-5)
    yield fn.positions, (tensor(ROWS, WIDTH), rows, places)

    def linear(out, into):
        return tensor(out, into), tensor(out)

    norm = tensor(WIDTH), tensor(WIDTH)
    weights = fn.LayerWeights(
        linear(3 * WIDTH + 2 * HEADS, WIDTH),
        tensor(HEADS),
        out=linear(WIDTH, WIDTH),
        up=linear(4 * WIDTH, WIDTH),
        down=linear(WIDTH, 4 * WIDTH),
        norm=norm,
        final_norm=norm,
    )
    seen = fn.PassPlaces(
        rows,
        tensor(2, blocks, dtype=integers),
        key_blocks=tensor(2, blocks, blocks, dtype=integers),
        by_distance=tensor(HEADS, 1601, dtype=torch.float32),
    )
    shape = fn.Shape(HEADS, True, eps=1e-5, farthest=800, chunk=0, window=0)
    yield fn.layer, (tensor(ROWS, WIDTH), weights, seen, shape)


def main():
    fake.init_gpu_context = lambda _: None
    with fake.FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        steps = {}
        for function, args in arguments():
            steps[function.__name__] = code_of(function, *args)
        for step in steps.values():
            next(step)
        pretend()
        found = {}
        for name, step in steps.items():
            code = next(step)
            found[name] = {
                "kernels": len(LAUNCH.findall(code[code.index("def call") :])),
                "shared": shared_memory(code),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
