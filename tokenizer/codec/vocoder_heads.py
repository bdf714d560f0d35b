"""The heads of vocoders: hidden frames → a waveform.

Vocos (Siuzdak 2023, arXiv 2306.00814) predicts magnitude and phase of each frame's spectrum, and an
inverse STFT adds the frames up. WaveNeXt (Okamoto et al. 2023) has one linear layer that gives a
frame's samples, without overlap.

Frame i of WavLM covers samples [320 i, 320 i + 400), so its window here is centred at sample
320 i + 200. T frames give 320 T + 80 samples, which give T frames again. With a margin of 0 the
first and the last 40 of these samples are dropped, as FocalCodec does.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLES_PER_FRAME
from tokenizer.config import VocoderConfig

# Magnitudes are clamped to this, as in Vocos, so that a wrong frame is not deafeningly loud.
LARGEST_MAGNITUDE = 100.0
# Of a frame's receptive field, on each side of the 320 samples in its middle.
WHOLE_MARGIN = (RECEPTIVE_FIELD - SAMPLES_PER_FRAME) // 2


@dataclass
class Overlap:
    """What an inverse STFT carries from chunk to chunk.

    sound: (B, n_fft - 320) and envelope: (n_fft - 320,), the sums so far of windowed frames and of
    squared windows at samples that later frames will add to. skip: samples still to be dropped,
    which lie before the utterance's first.
    """

    sound: Tensor
    envelope: Tensor
    skip: int


class SpectrumHead(nn.Module):
    """Hidden frames (B, T, hidden) → waveform (B, 320 T + 2 margin), through an inverse STFT."""

    window: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.margin = config.margin
        self.proj = nn.Linear(config.hidden, config.n_fft + 2)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Whole utterances; returns fp32."""
        return inverse_stft(self.spectra(x), self.window, self.margin)

    def step(self, x: Tensor, overlap: Overlap | None, last: bool) -> tuple[Tensor, Overlap | None]:
        """The next chunk, of t frames → (B, n), the samples that are final now.

        overlap: from the chunk before; None starts an utterance. last: also returns the remaining
        samples, and None for the next chunk; t may then be 0.
        """
        n_fft, done = len(self.window), SAMPLES_PER_FRAME * x.shape[1]
        reach, beyond = n_fft - SAMPLES_PER_FRAME, _beyond(n_fft, self.margin)
        if overlap is None:
            sound = self.window.new_zeros(len(x), reach)
            overlap = Overlap(sound, envelope=sound[0], skip=beyond)
        sound, envelope = F.pad(overlap.sound, (0, done)), F.pad(overlap.envelope, (0, done))
        if done:
            added, squares = overlap_add(self.spectra(x), self.window)
            sound, envelope = sound + added, envelope + squares
        final = slice(overlap.skip, done + reach - beyond if last else done)
        wave = sound[:, final] / envelope[final]
        if last:
            return wave, None
        skip = max(0, overlap.skip - done)
        return wave, Overlap(sound[:, done:], envelope=envelope[done:], skip=skip)

    def spectra(self, x: Tensor) -> Tensor:
        """(B, T, hidden) → (B, T, n_fft / 2 + 1) complex64: there is no FFT in bf16."""
        log_magnitude, phase = project(self.proj, x).chunk(2, dim=-1)
        return torch.polar(log_magnitude.exp().clamp(max=LARGEST_MAGNITUDE), phase)


class LinearHead(nn.Module):
    """Hidden frames (B, T, hidden) → waveform (B, samples_per_frame T), frame by frame."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden, config.samples_per_frame)

    def forward(self, x: Tensor) -> Tensor:
        """Whole utterances; returns fp32 in [-1, 1]."""
        return project(self.proj, x).flatten(1).clamp(-1, 1)

    def step(self, x: Tensor, overlap: Overlap | None, last: bool) -> tuple[Tensor, None]:
        """The next chunk: its samples are final at once, and nothing is carried on."""
        return self(x), None


def project(proj: nn.Linear, x: Tensor) -> Tensor:
    """(B, T, hidden) → (B, T, ·) fp32, without autocast: bf16 would be heard as noise."""
    with torch.autocast(x.device.type, enabled=False):
        return proj(x.to(proj.bias.dtype)).float()


def overlap_add(spectra: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, n_fft / 2 + 1) → the sum of the windowed frames, and that of the squared windows.

    Shapes (B, 320 (T - 1) + n_fft) and (320 (T - 1) + n_fft,). The waveform is the first over the
    second.
    """
    frames = torch.fft.irfft(spectra, len(window), dim=-1) * window
    squares = window.square().expand(1, spectra.shape[1], -1)
    return added_up(frames), added_up(squares)[0]


def added_up(frames: Tensor) -> Tensor:
    """(B, T, n) → (B, 320 (T - 1) + n): the sum of the frames, each 320 samples after the last."""
    count, size = frames.shape[1:]
    samples = SAMPLES_PER_FRAME * (count - 1) + size
    # Frames as groups of 320 samples: group k of every frame is added in one pass.
    groups = F.pad(frames, (0, -size % SAMPLES_PER_FRAME)).unflatten(2, (-1, SAMPLES_PER_FRAME))
    total = frames.new_zeros(len(frames), count + groups.shape[2] - 1, SAMPLES_PER_FRAME)
    for number, group in enumerate(groups.unbind(2)):
        total[:, number : number + count] += group
    return total.flatten(1)[:, :samples]


def inverse_stft(spectra: Tensor, window: Tensor, margin: int = WHOLE_MARGIN) -> Tensor:
    """(B, T, n_fft / 2 + 1) → (B, 320 T + 2 margin): the waveform with the nearest spectra.

    Least squares (Griffin and Lim 1984, eq. 6); window i is centred at sample 320 i + 160 + margin.
    """
    sound, envelope = overlap_add(spectra, window)
    beyond = _beyond(len(window), margin)
    inside = slice(beyond, sound.shape[1] - beyond)
    return sound[:, inside] / envelope[inside]


def _beyond(n_fft: int, margin: int) -> int:
    """Samples of the overlapping windows before the waveform's first, and after its last."""
    return (n_fft - SAMPLES_PER_FRAME) // 2 - margin
