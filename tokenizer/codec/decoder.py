"""Decoding: tokens → features → a waveform.

WavLM's input is normalised, so tokens do not carry loudness. Decoded speech always has the level
that the vocoder was trained at. Its sample rate is the vocoder's: 16 kHz of an inverse STFT, and
any that a linear head was trained for, such as 24 kHz.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.audio.windows import Windowing, kept_samples
from tokenizer.codec.compression import Compression, for_inference
from tokenizer.codec.focal import State
from tokenizer.codec.vocoder import Vocoder, VocoderState
from tokenizer.config import FocalConfig
from tokenizer.errors import UsageError
from tokenizer.storage.tokenizer_files import TokenizerFiles

# Root mean square of a vocoder's training targets: -23 dBFS, EBU R 128's level. The peaks of speech
# are 12 to 20 dB above its root mean square, so they stay below full scale.
LEVEL = 10 ** (-23 / 20)
# The limiter leaves samples up to this size unchanged and compresses larger ones into [0.8, 1].
LIMIT_FROM = 0.8
# Frames that are decoded at a time, and the least context on both sides, which is discarded.
WINDOW_FRAMES = 30 * FRAMES_PER_SECOND
CONTEXT_FRAMES = 2 * FRAMES_PER_SECOND


@dataclass
class DecodingState:
    """What a causal decoder carries from chunk to chunk: None before the first one."""

    decompressor: list[State] | None = None
    vocoder: VocoderState | None = None


class Decoding:
    """Tokens → features → waveform. It loads no encoder, so it is quick to make.

    vocoder: None where the tokenizer has none. compression: None without a compressor. sample_rate,
    samples_per_frame: of the waveform, 16,000 Hz and 320 without a vocoder.
    """

    def __init__(
        self,
        files: TokenizerFiles,
        device: torch.device | str = "cpu",
        compression: Compression | None = None,
    ) -> None:
        """files: with a codebook. compression: of the same files, where it is loaded already.

        The vocoder runs in fp32: bf16 resolves its phases to about a degree only.
        """
        self.device = torch.device(device)
        self.codes = files.weights["codebook.codes"]
        self.frames_per_token = files.frames_per_token
        # Codes of spherical k-means have length 1. A vocoder gets them scaled by sqrt(D), so that
        # their dimensions have unit size on average.
        by_angle = files.metric == "cosine" and files.compressor is None
        self.scale = self.codes.shape[1] ** 0.5 if by_angle else 1.0
        self.compression = compression
        self.past_frames, self.tokens_per_chunk = 0, 1
        if files.compressor:
            self.compression = compression or Compression(files.compressor, files.weights, device)
            if files.compressor.causal:
                self.past_frames = past_frames(files.compressor)
                self.tokens_per_chunk = files.compressor.chunk_frames // self.frames_per_token
        self.vocoder: Vocoder | None = None
        if files.vocoder:
            weights = files.vocoder_weights
            self.vocoder = for_inference(Vocoder(files.vocoder), weights, device=self.device)
        self.sample_rate = files.vocoder.sample_rate if files.vocoder else SAMPLE_RATE
        self.samples_per_frame = (
            files.vocoder.samples_per_frame if files.vocoder else SAMPLES_PER_FRAME
        )

    @torch.inference_mode()
    def features(self, tokens: Sequence[np.ndarray | Tensor]) -> list[Tensor]:
        """(T',) tokens of each utterance → (T' · frames_per_token, D) fp32 features of each.

        Raises UsageError unless each is a one-dimensional array of integers within the codebook.
        """
        rows = [self.codes_of(utterance) for utterance in tokens]
        return self.compression.features(rows) if self.compression else rows

    def codes_of(self, tokens: np.ndarray | Tensor) -> Tensor:
        """(T',) tokens → (T', D') fp32, their codes. Raises UsageError as `features` does."""
        tokens = tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            problem = f"they are {tokens.dtype} of shape {tokens.shape}"
            raise UsageError(problem, "give integers of shape (T,)", argument="tokens")
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < len(self.codes):
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise UsageError(
                f"{wrong} is among them, and the codebook has codes 0 to {len(self.codes) - 1}",
                "give tokens of this tokenizer",
                argument="tokens",
            )
        codes = self.codes[torch.from_numpy(tokens.astype(np.int64))]
        return codes.to(self.device, torch.float32) * self.scale

    def waveform(self, tokens: np.ndarray | Tensor) -> np.ndarray:
        """(T',) tokens → (n,) float32 in [-1, 1] at `sample_rate`; T = T' · frames_per_token.

        n is samples_per_frame · T and twice the vocoder's margin: 320 T + 80 of our inverse STFTs,
        480 T at 24 kHz. No tokens give no samples. Raises UsageError as `features` does, and
        without a vocoder.
        """
        return np.concatenate([np.empty(0, np.float32), *self.blocks(tokens)])

    def blocks(self, tokens: np.ndarray | Tensor) -> Iterator[np.ndarray]:
        """The waveform in pieces of half a minute, so that hours fit in little memory.

        A causal decoder goes on from piece to piece. Otherwise windows overlap by the vocoder's
        whole receptive field, and a decompressor that averages over the utterance averages over a
        window, as the encoder does. Raises as `waveform` does.
        """
        self.needed_vocoder()
        return self._causal_blocks(tokens) if self.is_causal else self._windows(tokens)

    @property
    def is_causal(self) -> bool:
        """Whether it can decode a stream: neither decompressor nor vocoder looks ahead."""
        causal = self.compression is None or self.compression.decompressor.config.causal
        return causal and self.vocoder is not None and self.vocoder.config.causal

    def _causal_blocks(self, tokens: np.ndarray | Tensor) -> Iterator[np.ndarray]:
        each, state = self.frames_per_token * self.tokens_per_chunk, DecodingState()
        size = WINDOW_FRAMES // each * self.tokens_per_chunk
        for start in range(0, len(tokens), size):
            codes, last = self.codes_of(tokens[start : start + size]), start + size >= len(tokens)
            wave, state = self.next_wave(codes, state, last=last)
            yield wave

    def _windows(self, tokens: np.ndarray | Tensor) -> Iterator[np.ndarray]:
        plan = self.windowing().plan(len(tokens)) if len(tokens) else []
        for window in plan:
            (wave,) = self.window_waves([tokens[window.start : window.stop]])
            yield wave[kept_samples(window, len(tokens), self.samples_per_token)]

    def windowing(self) -> Windowing:
        """How tokens are cut into windows where the decoder is not causal; it counts tokens."""
        vocoder, each = self.needed_vocoder(), self.frames_per_token
        frames = max(CONTEXT_FRAMES, vocoder.config.context_frames, self.past_frames)
        # A causal decompressor's windows start at a chunk's start.
        chunk = self.tokens_per_chunk
        context = -(-frames // (each * chunk)) * chunk
        size = WINDOW_FRAMES // each // chunk * chunk + 2 * context
        return Windowing(frames=size, context=context, normalize=False, frames_per_token=chunk)

    @property
    def samples_per_token(self) -> int:
        """Of the waveform."""
        return self.frames_per_token * self.samples_per_frame

    @torch.inference_mode()
    def window_waves(self, tokens: Sequence[np.ndarray | Tensor]) -> list[np.ndarray]:
        """(T',) tokens of each window → its waveform; on a GPU all windows go through as one batch.

        Raises as `waveform` does.
        """
        if not tokens:
            return []
        vocoder, rows = self.needed_vocoder(), self.features(tokens)
        if self.device.type == "cpu":
            # One by one, so that a waveform's last bit does not depend on its neighbours.
            return [self._within_range(vocoder(features[None])[0]) for features in rows]
        waves = vocoder.batch(rows)
        # One copy from the GPU, not one for each.
        ends = np.cumsum([len(wave) for wave in waves])[:-1]
        return np.split(self._within_range(torch.cat(waves)), ends)

    @torch.inference_mode()
    def speech_of(self, features: Tensor) -> np.ndarray:
        """(T, D) features of one window → (n,) float32, as `waveform` makes of tokens.

        features: as decoded ones are, such as WavLM's own: what the vocoder alone loses is heard.
        Raises UsageError without a vocoder.
        """
        vocoder = self.needed_vocoder()
        return self._within_range(vocoder(features[None].to(self.device))[0])

    @torch.inference_mode()
    def next_wave(
        self, codes: Tensor, state: DecodingState, last: bool
    ) -> tuple[np.ndarray, DecodingState]:
        """The next (t, D') codes of an utterance → the samples that are final now, and the state.

        Only for the causal form, and in whole chunks except at the end. last: also gives the
        remaining samples; t may then be 0. All together are what `waveform` gives.
        """
        features, decompressor = codes, state.decompressor
        if self.compression and len(codes):
            features, decompressor = self.compression.next_features(codes, decompressor)
        elif self.compression:
            features = codes.new_empty(0, len(self.compression.mean))
        wave, vocoder = self.needed_vocoder().stream(features[None], state.vocoder, last)
        return self._within_range(wave[0]), DecodingState(decompressor, vocoder)

    def _within_range(self, wave: Tensor) -> np.ndarray:
        limiter = self.needed_vocoder().config.limiter
        return (limited(wave) if limiter else wave.clamp(-1, 1)).cpu().numpy()

    def needed_vocoder(self) -> Vocoder:
        """The vocoder. Raises UsageError where the tokenizer has none."""
        if self.vocoder is None:
            raise UsageError(
                "this tokenizer has no vocoder", "train one with jobs/train_vocoder.py"
            )
        return self.vocoder


def past_frames(config: FocalConfig) -> int:
    """How far back a causal decompressor looks: all convolutions of all blocks, one on another."""
    levels = range(config.focal_levels)
    kernels = [config.focal_window + config.focal_factor * level for level in levels]
    block = config.past_frames + sum(kernels)
    return len(config.factors) * block * config.frames_per_token


def limited(wave: Tensor) -> Tensor:
    """A soft limiter: any samples → [-1, 1]; samples within ±LIMIT_FROM stay as they are."""
    size, headroom = wave.abs(), 1 - LIMIT_FROM
    excess = (size - LIMIT_FROM).clamp(min=0)
    compressed = size.clamp(max=LIMIT_FROM) + headroom * torch.tanh(excess / headroom)
    return wave.sign() * compressed.clamp(max=1)  # rounding can exceed 1
