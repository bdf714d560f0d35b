"""The losses that train a vocoder: spectral and, optionally, adversarial.

Tokens do not carry the phase of the original, so the waveform itself cannot be the target. Its
magnitude spectra are, with windows of 16 to 128 ms: short windows show when a sound starts, long
ones its pitch. They are as long at every sample rate.
"""

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.codec.discriminators import Discriminators, at_rate
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig

# At 16 kHz.
FFT_SIZES = (256, 512, 1024, 2048)
# FFT points for each mel band.
POINTS_PER_BAND = 16
# Added to magnitudes before the logarithm; speech at codec/decoder.py's level has 0.07.
FLOOR = 1e-4
# Weight of feature matching within the adversarial loss (HiFi-GAN, arXiv 2010.05646, eq. 4).
FEATURE_MATCHING_WEIGHT = 2.0


class VocoderTraining(nn.Module):
    """A vocoder in training and, with an adversarial weight, its discriminators.

    mean, scale: (D,) each, see __init__.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, config: VocoderConfig, mean: Tensor, scale: Tensor, adversarial_weight: float = 0.0
    ) -> None:
        """mean, scale: (D,) each, of the features. adversarial_weight: of the generator loss,
        beside the spectral losses; 0 trains without discriminators.

        The finished vocoder takes features as they are. In training, the weights of its first layer
        are parametrised for standardised features, since WavLM's are far from zero and of very
        different sizes. On wavlm-tiny's features the log mel distance after 200 steps was 0.81 this
        way, and 0.91 without.
        """
        super().__init__()
        self.vocoder = Vocoder(config)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.spectra = SpectralLoss(config.sample_rate)
        self.adversarial_weight = adversarial_weight
        self.discriminators = Discriminators(config.sample_rate) if adversarial_weight else None

    def matrices(self) -> set[str]:
        """Names of the parameters that Muon trains: the linear layers of the blocks."""
        return {
            name
            for name, p in self.named_parameters()
            if name.startswith("vocoder.backbone.layers.") and p.ndim == 2
        }

    def weights(self) -> dict[str, Tensor]:
        """The vocoder's weights, for features that are not standardised."""
        return {**self.vocoder.state_dict(), **self._first_layer()}

    def synthesize(self, features: Tensor) -> Tensor:
        """(B, T, D) → (B, n), with gradients: what a vocoder with `weights` gives."""
        return torch.func.functional_call(self.vocoder, self._first_layer(), (features,))

    def _first_layer(self) -> dict[str, Tensor]:
        layer = dict(self.vocoder.backbone.embedding.named_parameters())
        weight = layer["weight"] / self.scale[:, None]
        bias = layer["bias"] - (weight * self.mean[:, None]).sum((1, 2))
        return {"backbone.embedding.weight": weight, "backbone.embedding.bias": bias}

    def forward(self, features: Tensor, waves: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss () of a batch, and its parts for the log.

        features: (B, T, D). waves: (B, n), n >= samples_per_frame T: the audio of these frames, at
        the vocoder's rate. Its first sample is the target of the vocoder's first, whatever the
        margin. Vocoder and discriminators share one loss: the generator loss holds the
        discriminators' parameters fixed, and the discriminator loss gets the generated waveform
        detached.
        """
        samples = self.vocoder.config.samples_per_frame * features.shape[1]
        generated, waves = self.synthesize(features)[:, :samples], waves[:, :samples]
        with torch.autocast(waves.device.type, enabled=False):
            log_mel, convergence = self.spectra(generated, waves)
            loss = log_mel + convergence
            parts = {"log_mel": log_mel, "convergence": convergence}
            if self.discriminators is not None:
                generator, matching = generator_loss(self.discriminators, generated, waves)
                discriminator = discriminator_loss(self.discriminators, generated.detach(), waves)
                adversarial = generator + FEATURE_MATCHING_WEIGHT * matching
                loss = loss + self.adversarial_weight * adversarial + discriminator
                parts |= {"generator_loss": generator, "feature_matching": matching}
                parts |= {"discriminator_loss": discriminator}
        return loss, {name: value.detach() for name, value in parts.items()}


def generator_loss(
    discriminators: Discriminators, generated: Tensor, waves: Tensor
) -> tuple[Tensor, Tensor]:
    """The vocoder's hinge loss, as in Vocos, and the feature matching loss; () each.

    generated, waves: (B, n) each. Feature matching: relative mean difference of the discriminators'
    inner layers. No gradient reaches the discriminators.
    """
    fixed = {name: p.detach() for name, p in discriminators.named_parameters()}
    with torch.no_grad():
        real_outputs = discriminators(waves)
    outputs = torch.func.functional_call(discriminators, fixed, (generated,))
    hinge = torch.stack([F.relu(1 - layers[-1]).mean() for layers in outputs]).mean()
    matching = torch.stack(
        [
            (layer - real).abs().mean() / real.abs().mean()
            for layers, real_layers in zip(outputs, real_outputs)
            for layer, real in zip(layers[:-1], real_layers[:-1])
        ]
    ).mean()
    return hinge, matching


def discriminator_loss(discriminators: Discriminators, generated: Tensor, waves: Tensor) -> Tensor:
    """The discriminators' hinge loss (): 2 for one that always says 0.

    generated, waves: (B, n) each; `generated` detached from the vocoder.
    """
    losses = [
        F.relu(1 - real[-1]).mean() + F.relu(1 + fake[-1]).mean()
        for real, fake in zip(discriminators(waves), discriminators(generated))
    ]
    return torch.stack(losses).mean()


class SpectralLoss(nn.Module):
    """Distance between the magnitudes of two waveforms, averaged over several FFT sizes.

    The mean difference of log mel spectra (HiFi-GAN's, at several sizes as in arXiv 2306.06546)
    measures perceived loudness and weighs weak sounds as much as strong ones. Spectral convergence
    (Parallel WaveGAN, arXiv 1910.11480, eq. 4) resolves harmonics, of which a mel band holds many.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        super().__init__()
        self.sizes = at_rate(FFT_SIZES, sample_rate)
        for n_fft in self.sizes:
            mel = torchaudio.functional.melscale_fbanks(
                n_fft // 2 + 1, 0.0, sample_rate / 2, n_fft // POINTS_PER_BAND, sample_rate
            )
            window = torch.hann_window(n_fft)
            self.register_buffer(f"mel_{n_fft}", mel / mel.sum(0), persistent=False)
            # With this norm white noise has the same magnitude for every window length.
            self.register_buffer(f"window_{n_fft}", window / window.norm(), persistent=False)

    def forward(self, generated: Tensor, waves: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n) each → log mel distance in nepers, and spectral convergence; () each."""
        log_mel, convergence = [], []
        for n_fft in self.sizes:
            mel, window = self.get_buffer(f"mel_{n_fft}"), self.get_buffer(f"window_{n_fft}")
            found, real = magnitudes(generated, window), magnitudes(waves, window)
            bands, real_bands = (torch.log(each.mT @ mel + FLOOR) for each in (found, real))
            log_mel.append((bands - real_bands).abs().mean())
            error = (found - real).square().sum((1, 2))
            relative = error / (real.square().sum((1, 2)) + FLOOR)
            convergence.append((relative + FLOOR).sqrt().mean())
        return torch.stack(log_mel).mean(), torch.stack(convergence).mean()


def magnitudes(waves: Tensor, window: Tensor) -> Tensor:
    """(B, n) → (B, bins, frames), with a hop of a quarter of the window."""
    spectra = torch.stft(waves, len(window), len(window) // 4, window=window, return_complex=True)
    # abs() has no gradient at zero.
    return (spectra.real.square() + spectra.imag.square() + 1e-12).sqrt()
