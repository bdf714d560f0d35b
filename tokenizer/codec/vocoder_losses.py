"""What a vocoder learns from: spectra at several resolutions and, if asked for, discriminators.

A vocoder that hears tokens cannot know the phase that was there, so the waveform itself is no
target: its magnitudes are, seen through windows of 16 to 128 ms, as short ones show when something
sounds and long ones at which pitch.
"""

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from tokenizer.audio.frames import SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.codec.discriminators import Discriminators
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig

FFT_SIZES = (256, 512, 1024, 2048)
# FFT points for each mel band.
POINTS_PER_BAND = 16
# Added to magnitudes before the logarithm; speech at codec/decoder.py's level has 0.07.
FLOOR = 1e-4
# Differences of inner layers, in the adversarial loss (HiFi-GAN, arXiv 2010.05646, eq. 4).
FEATURE_MATCHING = 2.0


class VocoderTraining(nn.Module):
    """A vocoder and, with an adversarial weight, the discriminators that learn beside it."""

    def __init__(
        self, config: VocoderConfig, mean: Tensor, scale: Tensor, adversarial_weight: float = 0.0
    ) -> None:
        """mean, scale: (D,) each, of the features. adversarial_weight: of what discriminators say,
        beside the spectra; 0 for none.

        The vocoder takes features as they are, but learns as if they were standardised: its first
        layer's weights are trained in these units. WavLM's features are far from zero and of many
        sizes; the log mel distance after 200 steps on wavlm-tiny's was 0.81 so, and 0.91 without.
        """
        super().__init__()
        self.vocoder = Vocoder(config)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.spectra = SpectralLoss()
        self.adversarial_weight = adversarial_weight
        self.discriminators = Discriminators() if adversarial_weight else None

    def matrices(self) -> set[str]:
        """Parameters that Muon trains: the blocks' linear layers."""
        return {
            name
            for name, p in self.named_parameters()
            if name.startswith("vocoder.backbone.layers.") and p.ndim == 2
        }

    def weights(self) -> dict[str, Tensor]:
        """The vocoder's own, for features as they are."""
        return {**self.vocoder.state_dict(), **self._first_layer()}

    def speak(self, features: Tensor) -> Tensor:
        """(B, T, D) → (B, 320 T + 80), as a vocoder of `weights` does, with gradients."""
        return torch.func.functional_call(self.vocoder, self._first_layer(), (features,))

    def _first_layer(self) -> dict[str, Tensor]:
        layer, name = self.vocoder.backbone.embedding, "backbone.embedding"
        weight = layer.weight / self.scale[:, None]
        bias = layer.bias - (weight * self.mean[:, None]).sum((1, 2))
        return {f"{name}.weight": weight, f"{name}.bias": bias}

    def forward(self, features: Tensor, waves: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts.

        features: (B, T, D). waves: (B, n), n >= 320 T, what those frames were made of. One loss
        for all: discriminators with their parameters held still judge what the vocoder made, and
        discriminators that learn judge a copy of it that leads back to no vocoder.
        """
        samples = SAMPLES_PER_FRAME * features.shape[1]
        made, waves = self.speak(features)[:, :samples], waves[:, :samples]
        with torch.autocast(waves.device.type, enabled=False):
            log_mel, convergence = self.spectra(made, waves)
            loss = log_mel + convergence
            parts = {"log_mel": log_mel.detach(), "convergence": convergence.detach()}
            if self.discriminators is None:
                return loss, parts
            fooled, matching = self._judged(made, waves)
            told_apart = self._told_apart(made.detach(), waves)
        loss = loss + self.adversarial_weight * (fooled + FEATURE_MATCHING * matching) + told_apart
        more = {"fooled": fooled, "matching": matching, "told_apart": told_apart}
        return loss, parts | {name: value.detach() for name, value in more.items()}

    def _judged(self, made: Tensor, waves: Tensor) -> tuple[Tensor, Tensor]:
        """The vocoder's part: hinge loss as in Vocos, and how far inner layers are from truth's."""
        still = {name: p.detach() for name, p in self.discriminators.named_parameters()}
        with torch.no_grad():
            wanted = self.discriminators(waves)
        judged = torch.func.functional_call(self.discriminators, still, (made,))
        fooled = torch.stack([F.relu(1 - layers[-1]).mean() for layers in judged]).mean()
        matching = torch.stack(
            [
                (own - true).abs().mean() / true.abs().mean()
                for layers, truth in zip(judged, wanted)
                for own, true in zip(layers[:-1], truth[:-1])
            ]
        ).mean()
        return fooled, matching

    def _told_apart(self, made: Tensor, waves: Tensor) -> Tensor:
        """The discriminators' own hinge loss: 2 where they know nothing."""
        losses = [
            F.relu(1 - true[-1]).mean() + F.relu(1 + false[-1]).mean()
            for true, false in zip(self.discriminators(waves), self.discriminators(made))
        ]
        return torch.stack(losses).mean()


class SpectralLoss(nn.Module):
    """Distance of two waveforms' magnitudes, averaged over several FFT sizes.

    The log mel spectra's mean difference (HiFi-GAN's, at several sizes as in arXiv 2306.06546) is
    about loudness as it is heard, weak sounds as much as strong ones. Spectral convergence
    (Parallel WaveGAN, arXiv 1910.11480, eq. 4) is about harmonics, which lie within one band.
    """

    def __init__(self) -> None:
        super().__init__()
        for n_fft in FFT_SIZES:
            mel = torchaudio.functional.melscale_fbanks(
                n_fft // 2 + 1, 0.0, SAMPLE_RATE / 2, n_fft // POINTS_PER_BAND, SAMPLE_RATE
            )
            window = torch.hann_window(n_fft)
            self.register_buffer(f"mel_{n_fft}", mel / mel.sum(0), persistent=False)
            # White noise then has the magnitude of its samples, whatever the window's length.
            self.register_buffer(f"window_{n_fft}", window / window.norm(), persistent=False)

    def forward(self, made: Tensor, waves: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n) each → the log mel distance, in nepers, and the spectral convergence; () each."""
        log_mel, convergence = [], []
        for n_fft in FFT_SIZES:
            mel, window = self.get_buffer(f"mel_{n_fft}"), self.get_buffer(f"window_{n_fft}")
            own, true = magnitudes(made, window), magnitudes(waves, window)
            bands, wanted = (torch.log(each.mT @ mel + FLOOR) for each in (own, true))
            log_mel.append((bands - wanted).abs().mean())
            error = (own - true).square().sum((1, 2))
            share = error / (true.square().sum((1, 2)) + FLOOR)
            convergence.append((share + FLOOR).sqrt().mean())
        return torch.stack(log_mel).mean(), torch.stack(convergence).mean()


def magnitudes(waves: Tensor, window: Tensor) -> Tensor:
    """(B, n) → (B, bins, frames), a frame each quarter of a window."""
    spectra = torch.stft(waves, len(window), len(window) // 4, window=window, return_complex=True)
    # The slope of abs() at zero is no number.
    return (spectra.real.square() + spectra.imag.square() + 1e-12).sqrt()
