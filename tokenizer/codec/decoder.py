"""The way back: tokens → features → a waveform.

Tokens do not say how loud the speech was, as WavLM hears it normalised: what comes out is at one
level, that of the vocoder's training.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLES_PER_FRAME
from tokenizer.audio.windows import Windowing
from tokenizer.codec.compression import Compression
from tokenizer.codec.vocoder import Vocoder
from tokenizer.encoder.linear import pack_linears
from tokenizer.storage.tokenizer_files import TokenizerFiles

# -23 dBFS (EBU R 128's level, here of the root mean square): what an utterance of unit variance is
# multiplied by to be a vocoder's target. Full scale is 23 dB above, speech peaks 12 to 20.
LEVEL = 10 ** (-23 / 20)
# Below this a waveform is left as it is; what is above is pressed into what is left up to 1.
LIMIT_FROM = 0.8
# Frames that are decoded at a time, and at least so many on both sides that are thrown away.
WINDOW_FRAMES = 30 * FRAMES_PER_SECOND
CONTEXT_FRAMES = 2 * FRAMES_PER_SECOND


class Decoding:
    """Tokens of a tokenizer → features → waveform. Without its encoder, so it is quick to make."""

    def __init__(
        self,
        files: TokenizerFiles,
        device: torch.device | str = "cpu",
        compression: Compression | None = None,
    ) -> None:
        """files: with a codebook. compression: the tokenizer's own, where there is one already.

        The vocoder works in fp32: its phases are angles, which bf16 knows to a degree at best.
        """
        self.device = torch.device(device)
        self.codes = files.weights["codebook.codes"]
        self.frames_per_token = files.frames_per_token
        # Codes of spherical k-means are directions alone, of length 1: a vocoder is given them with
        # dimensions of unit size on average, as layers leave them and optimizers want them.
        by_angle = files.metric == "cosine" and files.compressor is None
        self.scale = self.codes.shape[1] ** 0.5 if by_angle else 1.0
        self.compression = compression
        self.past_frames, self.tokens_per_chunk = 0, 1
        if files.compressor:
            self.compression = compression or Compression(files.compressor, files.weights, device)
            if files.compressor.causal:
                self.past_frames = files.compressor.past_frames
                self.tokens_per_chunk = files.compressor.chunk_frames // self.frames_per_token
        self.vocoder = None
        if files.vocoder:
            vocoder = Vocoder(files.vocoder)
            vocoder.load_state_dict(files.vocoder_weights)
            self.vocoder = vocoder.to(self.device).eval().requires_grad_(False)
            if self.device.type == "cpu":
                pack_linears(self.vocoder)

    @torch.inference_mode()
    def features(self, tokens: list[np.ndarray]) -> list[Tensor]:
        """(T',) tokens of each utterance → (T' · frames_per_token, D) fp32 features of each.

        Raises ValueError for what is no (T',) of whole numbers within the codebook.
        """
        rows = [self.codes_of(own) for own in map(np.asarray, tokens)]
        return self.compression.features(rows) if self.compression else rows

    def codes_of(self, own: np.ndarray) -> Tensor:
        """(T',) tokens → (T', D') fp32 of the codebook. Raises ValueError as `features` does."""
        if own.ndim != 1 or own.dtype.kind not in "iu":
            raise ValueError(f"tokens are {own.dtype} of shape {own.shape}; integers, (T,)")
        if len(own) and not 0 <= own.min() <= own.max() < len(self.codes):
            raise ValueError(
                f"a token is {own.min() if own.min() < 0 else own.max()}; the codebook has "
                f"{len(self.codes)} codes: were they made by another tokenizer?"
            )
        codes = self.codes[torch.from_numpy(own.astype(np.int64))]
        return codes.to(self.device, torch.float32) * self.scale

    def waveform(self, tokens: np.ndarray) -> np.ndarray:
        """(T',) tokens → (320 T + 80,) float32 in [-1, 1] at 16 kHz, T = T' · frames_per_token.

        No tokens make no samples. Raises ValueError as `features` does, and without a vocoder.
        """
        return np.concatenate([np.empty(0, np.float32), *self.blocks(tokens)])

    def blocks(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """The waveform in pieces of half a minute, so that hours need no more memory than that.

        Windows overlap by all that a vocoder looks at. A decompressor that averages over the
        utterance averages over a window, as the encoder does. Raises as `waveform` does.
        """
        if self.vocoder is None:
            raise ValueError("this tokenizer has no vocoder: train one with jobs/train_vocoder.py")
        vocoder, each = self.vocoder, self.frames_per_token
        frames = max(CONTEXT_FRAMES, vocoder.config.context_frames, self.past_frames)
        # In tokens; a causal decompressor's windows begin where one of its chunks does.
        chunk = self.tokens_per_chunk
        context = -(-frames // (each * chunk)) * chunk
        size = WINDOW_FRAMES // each // chunk * chunk + 2 * context
        windowing = Windowing(size, context, normalize=False, frames_per_token=chunk)
        for window in windowing.plan(len(tokens)) if len(tokens) else []:
            with torch.inference_mode():
                features = self.features([tokens[window.start : window.stop]])[0]
                wave = limited(vocoder(features[None])[0]).cpu().numpy()
            last = window.keep_to == len(tokens)
            first, end = (
                each * SAMPLES_PER_FRAME * place for place in (window.kept.start, window.kept.stop)
            )
            yield wave[first : None if last else end]


def limited(wave: Tensor) -> Tensor:
    """Any samples → in [-1, 1], with no edge: those that are under LIMIT_FROM are as they were."""
    size, room = wave.abs(), 1 - LIMIT_FROM
    over = (size - LIMIT_FROM).clamp(min=0)
    pressed = size.clamp(max=LIMIT_FROM) + room * torch.tanh(over / room)
    return wave.sign() * pressed.clamp(max=1)  # rounding may lead past it
