"""A vocoder: features of 20 ms frames → a 16 kHz waveform, by an inverse short-time transform.

Vocos (Siuzdak 2023, arXiv 2306.00814): ConvNeXt blocks at the frame rate, then one linear layer
that says magnitude and phase of each frame's spectrum, and an inverse STFT. Everything is done 50
times a second, nothing 16,000 times: at full size it ran 50 times real time on one busy core.
Parameter names and shapes are those of FocalCodec's vocoder (arXiv 2502.04465), so that its
published weights fit.

Frame i of WavLM hears samples [320 i, 320 i + 400), and so its window here has its centre at sample
320 i + 200: T frames become 320 T + 80 samples, which make T frames again. (FocalCodec leaves out
the first and the last 40 of these.)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLES_PER_FRAME
from tokenizer.codec.focal import look_back
from tokenizer.config import VocoderConfig

# exp of what the last layer says is held to this, as in Vocos: one wrong frame must not deafen.
LARGEST_MAGNITUDE = 100.0


@dataclass
class VocoderState:
    """What a causal vocoder carries from chunk to chunk.

    convolutions: the last frames before each. sound, envelope: (B, n_fft - 320) and the same of
    (n_fft - 320,): what windows so far add to samples that later windows still reach. skip: samples
    before the utterance's first that are still to come.
    """

    convolutions: list[Tensor] | None
    sound: Tensor
    envelope: Tensor
    skip: int


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over frames, then two linear layers, with a residual.

    ConvNeXt (Liu et al. 2022, arXiv 2201.03545) in one dimension, as in Vocos.
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

    def forward(self, x: Tensor, before: list[Tensor] | None, index: int) -> tuple[Tensor, Tensor]:
        """(B, T, D) → same, and what of it the next chunk looks back on."""
        y, kept = _convolve(self.dwconv, x, causal=self.causal, before=before, index=index)
        return x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(y)))), kept


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

    def forward(self, x: Tensor, before: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """before: what the chunk before kept. Returns the output and what this one keeps."""
        x, own = _convolve(self.embedding, x, causal=self.causal, before=before, index=0)
        x, kept = self.input_norm(x), [own]
        for number, layer in enumerate(self.layers, 1):
            x, own = layer(x, before, number)
            kept.append(own)
        return self.output_norm(x), kept


def _convolve(
    conv: nn.Conv1d, x: Tensor, causal: bool, before: list[Tensor] | None, index: int
) -> tuple[Tensor, Tensor]:
    """(B, T, C) → (B, T, C'); (B, C, kernel - 1) to look back on."""
    x = x.mT
    kept = x[..., :0]
    if causal:
        x, kept = look_back(x, conv.kernel_size[0] - 1, state=before, index=index)
    return conv(x).mT, kept


class Head(nn.Module):
    """(B, T, hidden) → spectra (B, T, n_fft / 2 + 1): log magnitude and phase of each bin."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden, config.n_fft + 2)

    def forward(self, x: Tensor) -> Tensor:
        """Complex, in fp32: no FFT works in bf16."""
        with torch.autocast(x.device.type, enabled=False):
            spoken = self.proj(x.to(self.proj.bias.dtype)).float()
            magnitude, phase = spoken.chunk(2, dim=-1)
            return torch.polar(magnitude.exp().clamp(max=LARGEST_MAGNITUDE), phase)


class Vocoder(nn.Module):
    """Features (B, T, width) → waveform (B, 320 T + 80).

    The causal form can be fed chunk by chunk. After frame i, which needs the audio up to sample
    320 i + 400, samples below 320 (i + 1) + 200 - n_fft / 2 are final: with n_fft = 1024 that is
    320 i + 8, so 392 samples (24.5 ms) of what was heard are still to come, besides the 20 ms until
    the next frame. This algorithmic latency, at most 44.5 ms, is that of the windows alone.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = Head(config)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """A whole utterance, or a batch of them of one length. fp32."""
        spectra = self.head(self.backbone(features, None)[0])
        return inverse_stft(spectra, self.window)

    def stream(
        self, features: Tensor, state: VocoderState | None, last: bool
    ) -> tuple[Tensor, VocoderState | None]:
        """The next chunk of a causal vocoder: (B, t, width) → the samples that are final by now.

        state: of the chunk before; None begins an utterance. last: gives the rest, too; its chunk
        may be of no frames. All chunks together are what `forward` gives. Raises ValueError for a
        vocoder that is not causal.
        """
        if not self.config.causal:
            raise ValueError("this vocoder looks ahead; train a causal one to stream")
        n_fft, done = self.config.n_fft, SAMPLES_PER_FRAME * features.shape[1]
        reach, beyond = n_fft - SAMPLES_PER_FRAME, (n_fft - RECEPTIVE_FIELD) // 2
        if state is None:
            sound = self.window.new_zeros(len(features), reach)
            state = VocoderState(None, sound, envelope=sound[0], skip=beyond)
        sound = F.pad(state.sound, (0, done))
        envelope, kept = F.pad(state.envelope, (0, done)), state.convolutions
        if done:
            x, kept = self.backbone(features, kept)
            own, squares = overlap_add(self.head(x), self.window)
            sound, envelope = sound + own, envelope + squares
        end = done + reach - beyond if last else done
        wave = sound[:, state.skip : end] / envelope[state.skip : end]
        left = max(0, state.skip - done)
        return wave, None if last else VocoderState(
            kept, sound[:, done:], envelope=envelope[done:], skip=left
        )


def overlap_add(spectra: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, n_fft / 2 + 1) → (B, 320 (T - 1) + n_fft): windowed frames laid over one another.

    Also the same of the squared window alone, by which they are to be divided.
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
    """(B, T, n_fft / 2 + 1) → (B, 320 T + 80): the waveform whose frames' spectra are nearest.

    Least squares (Griffin and Lim 1984, eq. 6), window i about sample 320 i + 200.
    """
    sound, envelope = overlap_add(spectra, window)
    beyond = (len(window) - RECEPTIVE_FIELD) // 2
    inside = slice(beyond, sound.shape[1] - beyond)
    return sound[:, inside] / envelope[inside]
