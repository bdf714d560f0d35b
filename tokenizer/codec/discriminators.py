"""Discriminators: networks that learn to tell a vocoder's waveforms from real ones.

Those of Vocos (arXiv 2306.00814, section 3.3) at a quarter of their width: multi-period (HiFi-GAN,
Kong et al. 2020, arXiv 2010.05646) and multi-resolution (UnivNet, Jang et al. 2021, arXiv
2106.07889).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tokenizer.audio.frames import SAMPLE_RATE

# Primes, so that no two discriminators see the same samples side by side.
PERIODS = (2, 3, 5, 7, 11)
PERIOD_WIDTHS = (8, 32, 128, 256)
# At 16 kHz.
FFT_SIZES = (512, 1024, 2048)
SPECTRUM_WIDTH = 32
LEAKY_RELU_SLOPE = 0.1


class Discriminators(nn.Module):
    """All discriminators: (B, n) waveforms → the layer outputs of each, its verdict last."""

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        super().__init__()
        sizes = at_rate(FFT_SIZES, sample_rate)
        self.periods = nn.ModuleList(PeriodDiscriminator(period) for period in PERIODS)
        self.spectra = nn.ModuleList(SpectrumDiscriminator(n_fft) for n_fft in sizes)

    def forward(self, waves: Tensor) -> list[list[Tensor]]:
        """A verdict holds scores: above 0 means a real waveform, below 0 a generated one."""
        return [discriminator(waves) for discriminator in (*self.periods, *self.spectra)]


def at_rate(sizes: tuple[int, ...], sample_rate: int) -> list[int]:
    """Window sizes at 16 kHz → at another rate, of the same durations; even numbers."""
    return [2 * round(size * sample_rate / (2 * SAMPLE_RATE)) for size in sizes]


class PeriodDiscriminator(nn.Module):
    """2D convolutions over the waveform folded at a period: one row for each period."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        widths = (1, *PERIOD_WIDTHS)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(width, out, (5, 1), (3, 1), padding=(2, 0)))
            for width, out in pairwise(widths)
        )
        self.verdict = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waves: Tensor) -> list[Tensor]:
        """(B, n) → the output of each layer, the verdict last."""
        x = F.pad(waves, (0, -waves.shape[1] % self.period)).unflatten(1, (-1, self.period))
        return _outputs(x[:, None], self.layers, self.verdict)


class SpectrumDiscriminator(nn.Module):
    """2D convolutions over the magnitude spectrogram of one FFT size."""

    window: Tensor

    def __init__(self, n_fft: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        strides = [(1, 1), (1, 2), (1, 2), (1, 2), (1, 1)]
        self.layers = nn.ModuleList(
            weight_norm(
                nn.Conv2d(SPECTRUM_WIDTH if number else 1, SPECTRUM_WIDTH, (3, 9), stride, (1, 4))
            )
            for number, stride in enumerate(strides)
        )
        self.verdict = weight_norm(nn.Conv2d(SPECTRUM_WIDTH, 1, 3, padding=1))

    def forward(self, waves: Tensor) -> list[Tensor]:
        """(B, n) → the output of each layer, the verdict last."""
        n_fft = len(self.window)
        spectra = torch.stft(waves, n_fft, n_fft // 4, window=self.window, return_complex=True)
        power = spectra.real.square() + spectra.imag.square() + 1e-9
        return _outputs(power.sqrt().mT[:, None], self.layers, self.verdict)


def _outputs(x: Tensor, layers: nn.ModuleList, verdict: nn.Module) -> list[Tensor]:
    outputs = []
    for layer in layers:
        x = F.leaky_relu(layer(x), LEAKY_RELU_SLOPE)
        outputs.append(x)
    return [*outputs, verdict(x)]
