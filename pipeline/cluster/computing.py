"""What actors compute with: one thread, and batches that are copied to a GPU beside it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.resampling import INT16_STEP
from tokenizer.audio.windows import RawWindow


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

    Batches take turns, and OpenMP keeps one team of threads, not one for each call. Models are to
    be made in this thread too: where another thread has a team of its own, there are more threads
    than cores, and GNU OpenMP then hardly lets them spin. On two cores that cost a tenth.
    """
    return ThreadPoolExecutor(1, initializer=_use_threads, initargs=(threads,))


def _use_threads(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
