"""The encoder actor: a process that holds the tokenizer and encodes batches.

PyTorch is imported where the actor starts, not here: Ray imports this file in every process that is
given a handle of the actor, and a shard task would hold what it never uses.
"""

import numpy as np
import ray

from pipeline.cluster.code import check_code


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

        from tokenizer.tokenizer import Tokenizer

        if threads:
            torch.set_num_threads(threads)
        self.tokenizer = Tokenizer(ray.get(ray.cloudpickle.loads(weights)), device, precision)

    def ready(self) -> str:
        """Answers once the tokenizer has loaded. Returns the id of the node that it is on."""
        return ray.get_runtime_context().get_node_id()

    def encode(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        """Waveforms at 16 kHz → tokens of each."""
        return self.tokenizer.encode_windows(windows)

    def features(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        """Waveforms at 16 kHz → features of each, (frames, dim)."""
        return self.tokenizer.features(windows)
