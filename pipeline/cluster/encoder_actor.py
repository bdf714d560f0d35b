"""The encoder actor: a process that holds the tokenizer and encodes batches.

It takes three calls at a time: while one batch is computed, the next is received, brought into
float32 and, on a GPU, copied there by a stream of its own.

PyTorch is imported where the actor starts, not here: Ray imports this file in every process that is
given a handle of the actor, and a shard task would hold what it never uses.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from pipeline.cluster.code import check_code
from tokenizer.audio.windows import RawWindow

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
        import torch  # not above: see the module

        from pipeline.cluster.computing import computing_thread, copied
        from tokenizer.tokenizer import Tokenizer

        self.compute = computing_thread(threads)
        files = ray.get(ray.cloudpickle.loads(weights))
        self.tokenizer = self.compute.submit(Tokenizer, files, device, precision).result()
        self.copied: Any = copied
        self.copies = torch.cuda.Stream() if self.tokenizer.device.type == "cuda" else None

    def ready(self) -> str:
        """Answers once the tokenizer has loaded. Returns the id of the node that it is on."""
        return ray.get_runtime_context().get_node_id()

    def encode(self, windows: list[RawWindow]) -> list[np.ndarray]:
        """Windows at 16 kHz → tokens of each."""
        if self.copies is None:
            return self._run(self.tokenizer.encode_windows, windows)
        batch = self.copied(windows, self.tokenizer.device, self.copies)
        # The next batch is started while this one's tokens are waited for.
        start = self.compute.submit(lambda: self.tokenizer.start_windows(batch.waveforms()))
        return start.result()()

    def features(self, windows: list[RawWindow]) -> list[np.ndarray]:
        """Windows at 16 kHz → features of each, (frames, dim)."""
        return self._run(self.tokenizer.features, windows)

    def _run(
        self, method: Callable[[list], list[np.ndarray]], windows: list[RawWindow]
    ) -> list[np.ndarray]:
        if self.copies is None:
            waves = [window.waveform() for window in windows]
            return self.compute.submit(method, waves).result()
        batch = self.copied(windows, self.tokenizer.device, self.copies)
        return self.compute.submit(lambda: method(batch.waveforms())).result()
