"""The encoder actor: a process that holds the tokenizer and encodes batches.

It takes two batches at a time: while one is computed, the next is received, brought into float32
and, on a GPU, copied there by a stream of its own.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ray
import torch
from torch import Tensor

from pipeline.cluster.code import check_code
from tokenizer.audio.decoding import INT16_STEP
from tokenizer.audio.windows import RawWindow
from tokenizer.tokenizer import Tokenizer

# Calls that Ray lets in at once: one is computed, one is made ready, one waits to be sent back.
CALLS_AT_ONCE = 3


class EncoderActor:
    """Runs as a Ray actor. A batch is a list of windows of one shard's utterances."""

    def __init__(
        self, weights: bytes, *, code: str, device: str, precision: str, threads: int | None
    ) -> None:
        """weights: a pickled reference to the tokenizer's files in Ray's store.

        code: the driver's fingerprint. threads: on a CPU. Raises OtherCode.
        """
        check_code(code)
        if threads:
            torch.set_num_threads(threads)
        self.tokenizer = Tokenizer(ray.get(ray.cloudpickle.loads(weights)), device, precision)
        self.compute = computing_thread(threads)
        self.copies = torch.cuda.Stream() if self.tokenizer.device.type == "cuda" else None

    def ready(self) -> str:
        """Answers once the tokenizer has loaded. Returns the id of the node that it is on."""
        return ray.get_runtime_context().get_node_id()

    def encode(self, windows: list[RawWindow]) -> list[np.ndarray]:
        """Windows at 16 kHz → tokens of each."""
        return self._run(self.tokenizer.encode_windows, windows)

    def features(self, windows: list[RawWindow]) -> list[np.ndarray]:
        """Windows at 16 kHz → features of each, (frames, dim)."""
        return self._run(self.tokenizer.features, windows)

    def _run(
        self, method: Callable[[list], list[np.ndarray]], windows: list[RawWindow]
    ) -> list[np.ndarray]:
        if self.copies is None:
            waves = [window.waveform() for window in windows]
            return self.compute.submit(method, waves).result()
        batch = copied(windows, self.tokenizer.device, self.copies)
        return self.compute.submit(lambda: method(batch.waveforms())).result()


class CopiedBatch:
    """A batch's samples on their way to a GPU, in one piece of memory.

    samples: all windows' one after the other. arrived: when they are there.
    """

    def __init__(
        self, windows: list[RawWindow], samples: Tensor, arrived: torch.cuda.Event | None
    ) -> None:
        self.windows, self.samples, self.arrived = windows, samples, arrived

    def waveforms(self) -> list[Tensor]:
        """(n,) float32 of each window on the device, as RawWindow.waveform gives it."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.arrived)
            # The memory belongs to the copying stream, which must not use it again before.
            self.samples.record_stream(stream)
        samples = self.samples
        if samples.dtype == torch.int16:
            samples = samples.float() * INT16_STEP
        parts = samples.split([len(window) for window in self.windows])
        return [
            part if window.scale is None else (part - window.mean) * window.scale
            for part, window in zip(parts, self.windows, strict=True)
        ]


def copied(
    windows: list[RawWindow], device: torch.device, stream: torch.cuda.Stream | None
) -> CopiedBatch:
    """Begin to copy a batch to a device. stream: of a GPU; None copies at once."""
    arrays = [window.samples for window in windows]
    kinds = {array.dtype for array in arrays}
    kind = torch.int16 if kinds == {np.dtype(np.int16)} else torch.float32
    if kind == torch.float32:
        arrays = [RawWindow(array).waveform() for array in arrays]
    # From page-locked memory a GPU copies beside its computing.
    host = torch.empty(sum(map(len, arrays)), dtype=kind, pin_memory=stream is not None)
    np.concatenate(arrays, out=host.numpy())
    if stream is None:
        return CopiedBatch(windows, host.to(device), None)
    with torch.cuda.stream(stream):
        samples = host.to(device, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(stream)
    return CopiedBatch(windows, samples, arrived)


def computing_thread(threads: int | None) -> ThreadPoolExecutor:
    """The one thread of an actor that computes. threads: of PyTorch's in it, on a CPU.

    Batches take turns, and OpenMP keeps one team of threads, not one for each call.
    """
    return ThreadPoolExecutor(1, initializer=_use_threads, initargs=(threads,))


def _use_threads(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
