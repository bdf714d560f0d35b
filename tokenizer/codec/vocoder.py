"""The vocoder: features of 20 ms frames → a 16 kHz waveform, through an inverse STFT.

Vocos (Siuzdak 2023, arXiv 2306.00814): ConvNeXt blocks at the frame rate, then one linear layer
that predicts magnitude and phase of each frame's spectrum, and an inverse STFT. Every layer runs 50
times a second, none 16,000 times: at full size it ran 50 times real time on one busy core.
Parameter names and shapes are those of FocalCodec's vocoder (arXiv 2502.04465), so its published
weights load.

Frame i of WavLM covers samples [320 i, 320 i + 400), so its window here is centred at sample
320 i + 200. T frames give 320 T + 80 samples, which give T frames again. (FocalCodec drops the
first and the last 40 of these samples.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLES_PER_FRAME
from tokenizer.codec.focal import look_back
from tokenizer.config import VocoderConfig
from tokenizer.errors import UsageError

# Magnitudes are clamped to this, as in Vocos, so that a wrong frame is not deafeningly loud.
LARGEST_MAGNITUDE = 100.0


@dataclass
class VocoderState:
    """What a causal vocoder carries from chunk to chunk.

    convolutions: past inputs of each, (B, C, kernel - 1); None before the first frame. sound:
    (B, n_fft - 320) and envelope: (n_fft - 320,), the sums so far of windowed frames and of squared
    windows at samples that later frames will add to. skip: samples still to be dropped, which lie
    before the utterance's first.
    """

    convolutions: list[Tensor] | None
    sound: Tensor
    envelope: Tensor
    skip: int


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over frames, then two linear layers, with a residual.

    ConvNeXt (Liu et al. 2022, arXiv 2201.03545) over one dimension, as in Vocos.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width, self.causal = config.hidden, config.causal
        self.dwconv = nn.Conv1d(
            width, width, config.kernel, padding=0 if config.causal else "same", groups=width
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, config.feed_forward)
        self.pwconv2 = nn.Linear(config.feed_forward, width)
        self.gamma = nn.Parameter(torch.full((width,), 1 / config.layers))

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D) → same, and the past of the next chunk. past: see `look_back`."""
        y, next_past = _convolve(self.dwconv, x, causal=self.causal, past=past)
        return x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(y)))), next_past


class Backbone(nn.Module):
    """Features (B, T, width) → (B, T, hidden)."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.causal = config.causal
        self.embedding = nn.Conv1d(
            config.width, config.hidden, config.kernel, padding=0 if config.causal else "same"
        )
        self.input_norm = nn.LayerNorm(config.hidden, eps=1e-6)
        self.layers = nn.ModuleList(ConvNeXtBlock(config) for _ in range(config.layers))
        self.output_norm = nn.LayerNorm(config.hidden, eps=1e-6)

    def forward(self, x: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """state: past inputs of each convolution, from the chunk before; returns the next."""
        past: Sequence[Tensor | None] = state or [None] * (1 + len(self.layers))
        x, next_past = _convolve(self.embedding, x, causal=self.causal, past=past[0])
        x, next_state = self.input_norm(x), [next_past]
        for layer, layer_past in zip(self.layers, past[1:]):
            x, next_past = layer(x, layer_past)
            next_state.append(next_past)
        return self.output_norm(x), next_state


def _convolve(
    conv: nn.Conv1d, x: Tensor, causal: bool, past: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(B, T, C) → (B, T, C'), and the next chunk's past (B, C, kernel - 1), empty if not causal."""
    x = x.mT
    next_past = x[..., :0]
    if causal:
        x, next_past = look_back(x, conv.kernel_size[0] - 1, past)
    return conv(x).mT, next_past


class Head(nn.Module):
    """(B, T, hidden) → spectra (B, T, n_fft / 2 + 1): log magnitude and phase of each bin."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden, config.n_fft + 2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns complex64: there is no FFT in bf16."""
        with torch.autocast(x.device.type, enabled=False):
            log_magnitude, phase = self.proj(x.to(self.proj.bias.dtype)).float().chunk(2, dim=-1)
            return torch.polar(log_magnitude.exp().clamp(max=LARGEST_MAGNITUDE), phase)


class Vocoder(nn.Module):
    """Features (B, T, width) → waveform (B, 320 T + 80).

    The causal form can be fed chunk by chunk. Frame i needs the input audio up to sample
    320 i + 400; after it, output samples below 320 (i + 1) + 200 - n_fft / 2 are final. With
    n_fft = 1024 that is 320 i + 8: the output lags the input by 392 samples (24.5 ms), and by up to
    20 ms more until the next frame comes. This algorithmic latency, at most 44.5 ms, comes from the
    overlapping windows only.
    """

    window: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = Head(config)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Whole utterances of one length; (B, T, width) → (B, 320 T + 80) fp32."""
        spectra = self.head(self.backbone(features, None)[0])
        return inverse_stft(spectra, self.window)

    def stream(
        self, features: Tensor, state: VocoderState | None, last: bool
    ) -> tuple[Tensor, VocoderState | None]:
        """The next chunk: (B, t, width) → (B, n), the samples that are final now; causal form only.

        state: from the chunk before; None starts an utterance. last: also returns the remaining
        samples, and None for the state; t may then be 0. All chunks together give what `forward`
        gives. Raises UsageError for a vocoder that is not causal.
        """
        if not self.config.causal:
            raise UsageError("this vocoder is not causal", "train a causal one")
        n_fft, done = self.config.n_fft, SAMPLES_PER_FRAME * features.shape[1]
        reach, beyond = n_fft - SAMPLES_PER_FRAME, (n_fft - RECEPTIVE_FIELD) // 2
        if state is None:
            sound = self.window.new_zeros(len(features), reach)
            state = VocoderState(None, sound, envelope=sound[0], skip=beyond)
        sound = F.pad(state.sound, (0, done))
        envelope, convolutions = F.pad(state.envelope, (0, done)), state.convolutions
        if done:
            x, convolutions = self.backbone(features, convolutions)
            added, squares = overlap_add(self.head(x), self.window)
            sound, envelope = sound + added, envelope + squares
        end = done + reach - beyond if last else done
        wave = sound[:, state.skip : end] / envelope[state.skip : end]
        if last:
            return wave, None
        skip = max(0, state.skip - done)
        return wave, VocoderState(
            convolutions, sound[:, done:], envelope=envelope[done:], skip=skip
        )


def overlap_add(spectra: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, n_fft / 2 + 1) → the sum of the windowed frames, and that of the squared windows.

    Shapes (B, 320 (T - 1) + n_fft) and (320 (T - 1) + n_fft,). The waveform is the first over the
    second.
    """
    frames = torch.fft.irfft(spectra, len(window), dim=-1) * window
    count, n_fft = frames.shape[1:]
    samples = SAMPLES_PER_FRAME * (count - 1) + n_fft
    squares = window.square().expand(1, count, n_fft)
    sound, envelope = (
        F.fold(rows.mT, (1, samples), (1, n_fft), stride=(1, SAMPLES_PER_FRAME))[:, 0, 0]
        for rows in (frames, squares)
    )
    return sound, envelope[0]


def inverse_stft(spectra: Tensor, window: Tensor) -> Tensor:
    """(B, T, n_fft / 2 + 1) → (B, 320 T + 80): the waveform with the nearest spectra.

    Least squares (Griffin and Lim 1984, eq. 6); window i is centred at sample 320 i + 200.
    """
    sound, envelope = overlap_add(spectra, window)
    beyond = (len(window) - RECEPTIVE_FIELD) // 2
    inside = slice(beyond, sound.shape[1] - beyond)
    return sound[:, inside] / envelope[inside]
