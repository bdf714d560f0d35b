"""The decoder actor: a process that holds vocoder and codebook, and makes sound of tokens.

PyTorch is imported where the actor starts, as in encoder_actor.py.
"""

import numpy as np
import ray

from pipeline.cluster.code import check_code


class DecoderActor:
    """Runs as a Ray actor, one a GPU or a core, as EncoderActor does."""

    def __init__(
        self, weights: bytes, *, code: str, device: str, precision: str, threads: int | None
    ) -> None:
        """weights: a pickled reference to the tokenizer's files; its encoder's are not needed.

        code: the driver's fingerprint. precision: the vocoder's is fp32 always. threads: on a CPU;
        their number changes the order of sums, so the caller gives one. Raises OtherCode.
        """
        check_code(code)
        # Not above: see the module.
        from pipeline.cluster.computing import computing_thread
        from tokenizer.codec.decoder import WINDOW_FRAMES, Decoding

        assert precision == "fp32"
        self.compute = computing_thread(threads)
        self.window_frames = WINDOW_FRAMES
        files = ray.get(ray.cloudpickle.loads(weights))
        self.decoding = self.compute.submit(Decoding, files, device).result()

    def ready(self) -> str:
        """Answers once the vocoder has loaded. Returns the id of the node that it is on."""
        return ray.get_runtime_context().get_node_id()

    def decode(self, tokens: list[np.ndarray]) -> list[np.ndarray]:
        """(T',) tokens of windows → (n,) int16 of each; of a causal decoder, of whole utterances.

        On a GPU all go through the vocoder together, but for a causal decoder's long utterances.
        """
        return self.compute.submit(self._decode, tokens).result()

    def _decode(self, tokens: list[np.ndarray]) -> list[np.ndarray]:
        decoding = self.decoding
        if not decoding.is_causal:
            return list(map(as_int16, decoding.window_waves(tokens)))
        most = 0
        if decoding.device.type != "cpu":
            most = self.window_frames // decoding.frames_per_token
        made = iter(decoding.window_waves([part for part in tokens if len(part) <= most]))
        return [
            as_int16(next(made) if len(part) <= most else decoding.waveform(part))
            for part in tokens
        ]


def as_int16(wave: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] → int16."""
    return np.rint(wave * 32767).astype(np.int16)
