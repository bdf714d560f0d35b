"""Pre-training of WavLM: masked prediction of k-means labels, and the forward pass with gradients.

Masked prediction as in HuBERT (Hsu et al. 2021, arXiv 2106.07447, section 3) and WavLM (arXiv
2110.13900, section 3): spans of frames are replaced by one learned vector, and the network predicts
the k-means label of each masked frame. The weights are a `transformers.WavLMModel`'s, and are saved
as one. The forward pass is ours, and several times as fast on a CPU: data stay time-major, where
every convolution is one or two plain products, in bf16 where that is faster.
"""

from typing import Any

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn
from transformers import WavLMConfig, WavLMModel

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.encoder.trainable_layers import run_layers

# Cosine similarities are divided by this before the softmax, as in HuBERT.
TEMPERATURE = 0.1
MELS, FFT_SIZE = 64, 512
# Added to the power in each mel band: about 50 dB below speech, for waves of unit variance.
MEL_FLOOR = 1e-3


class MaskedPrediction(nn.Module):
    """A WavLM with layer-norm convolutions and pre-norm layers, and a head that predicts labels."""

    mel: Tensor

    def __init__(self, config: WavLMConfig, labels: int, seed: int) -> None:
        """labels: number of classes. seed: of the random weights.

        Raises ValueError for another shape of WavLM.
        """
        super().__init__()
        if config.feat_extract_norm != "layer" or not config.do_stable_layer_norm:
            raise ValueError("only the shape of wavlm-large is trained: layer norms, pre-norm")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.wavlm = WavLMModel(config)
            self.project = nn.Linear(config.hidden_size, config.hidden_size)
            self.labels = nn.Parameter(torch.randn(labels, config.hidden_size))
            self.to_spectrum = nn.Linear(config.hidden_size, MELS)
        self.config = config
        self.register_buffer("mel", mel_filters(), persistent=False)
        # Time-major matrices (O, kernel * C), as the forward pass and the optimizer use them.
        self.kernels = nn.ParameterList()
        for layer in self.wavlm.feature_extractor.conv_layers:
            self.kernels.append(_time_major(layer.conv.weight))
            layer.conv.weight.requires_grad_(False)

    def matrices(self) -> set[str]:
        """Names of the parameters that Muon trains: matrices of convolutions and of layers."""
        return {
            name
            for name, p in self.named_parameters()
            if (name.startswith("kernels.") or ".encoder.layers." in name)
            and p.ndim == 2
            and p.requires_grad
            and "rel" not in name
        }

    def load_encoder(self, wavlm: WavLMModel) -> None:
        """Copy the weights of an encoder of the same shape."""
        self.wavlm.load_state_dict(wavlm.state_dict())
        with torch.no_grad():
            for kernel, layer in zip(self.kernels, wavlm.feature_extractor.conv_layers):
                kernel.copy_(_time_major(layer.conv.weight))

    def keep(self, layers: int) -> None:
        """Freeze the convolutions and the first `layers` transformer layers (1 or more).

        Tokenizers that use those layers then give the same tokens, to the bit.
        """
        wavlm = self.wavlm
        kept = (wavlm.feature_projection, wavlm.encoder.pos_conv_embed, self.kernels)
        for module in (*kept, wavlm.feature_extractor, *wavlm.encoder.layers[:layers]):
            module.requires_grad_(False)
        # Its gradient would have to go back through all frozen layers.
        wavlm.masked_spec_embed.requires_grad_(False)

    def encoder(self) -> WavLMModel:
        """The encoder as a transformers model, with the current weights."""
        with torch.no_grad():
            for kernel, layer in zip(self.kernels, self.wavlm.feature_extractor.conv_layers):
                width, channels, taps = layer.conv.weight.shape
                plain = kernel.view(width, taps, channels).transpose(1, 2)
                layer.conv.weight.copy_(plain)
        return self.wavlm

    def forward(
        self, waves: Tensor, masked: Tensor, labels: Tensor, unmasked_weight: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the accuracy on masked and on unmasked ("heard") frames.

        waves: (B, n) normalised 16 kHz. masked: (B, T) bool, T = floor((n - 400) / 320) + 1.
        labels: (B, T) int64. The loss is the mean cross-entropy of masked frames, in nats, plus
        `unmasked_weight` times that of the others (HuBERT, eq. 3, up to scale).
        """
        x = self.features(waves, masked)
        # In fp32, because the temperature multiplies every rounding error by ten.
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(
                F.normalize(self.project(x.float()), dim=-1), F.normalize(self.labels, dim=-1)
            )
            losses = F.cross_entropy(
                logits.flatten(0, 1) / TEMPERATURE, labels.flatten(), reduction="none"
            ).view_as(labels)
            loss = losses[masked].mean()
            if unmasked_weight:
                loss = loss + unmasked_weight * losses[~masked].mean()
        correct = logits.argmax(-1) == labels
        return loss, {
            "masked_accuracy": correct[masked].float().mean(),
            "heard_accuracy": correct[~masked].float().mean(),
        }

    def spectrum_loss(self, waves: Tensor) -> Tensor:
        """Mean squared error of each frame's log mel spectrum, predicted by the convolutions alone.

        waves: (B, n). Bands are standardised over the batch, so predicting the mean has a loss of
        1. The convolutions start random, and a short masked-prediction training spends most of its
        time until they compute anything like a spectrum. Trained on it directly, without the
        transformer, they take a minute.
        """
        projection = self.wavlm.feature_projection
        frames = projection.projection(projection.layer_norm(self.convolve(waves)))
        predicted = self.to_spectrum(frames)
        with torch.autocast(waves.device.type, enabled=False):
            samples = waves.unfold(1, RECEPTIVE_FIELD, SAMPLES_PER_FRAME)
            window = torch.hann_window(RECEPTIVE_FIELD, device=waves.device)
            power = torch.fft.rfft(samples * window, FFT_SIZE).abs().square()
            spectrum = torch.log(power @ self.mel + MEL_FLOOR)
            spread, mean = torch.std_mean(spectrum, dim=(0, 1), keepdim=True)
            return F.mse_loss(predicted.float(), (spectrum - mean) / spread)

    def features(self, waves: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, n) → (B, T, D): the top layer's output, after the final norm."""
        x = self.convolve(waves)
        projection = self.wavlm.feature_projection
        x = projection.projection(projection.layer_norm(x))
        if masked is not None:
            x = torch.where(masked[..., None], self.wavlm.masked_spec_embed.to(x.dtype), x)
        encoder = self.wavlm.encoder
        conv = encoder.pos_conv_embed.conv
        x = x + position_embedding(conv, x, back=conv.kernel_size[0] // 2)
        x = run_layers(self.wavlm, x)
        return encoder.layer_norm(x)

    def convolve(self, waves: Tensor) -> Tensor:
        """(B, n) → (B, T, C): the seven convolutions, each with its norm over channels and GELU."""
        x = waves.unsqueeze(-1)
        for layer, kernel, stride in zip(
            self.wavlm.feature_extractor.conv_layers, self.kernels, self.config.conv_stride
        ):
            x = F.gelu(layer.layer_norm(_convolve(x, kernel, bias=layer.conv.bias, stride=stride)))
        return x


def mel_filters() -> Tensor:
    """(bins, bands): triangular mel filters for power spectra of FFT_SIZE."""
    return torchaudio.functional.melscale_fbanks(
        FFT_SIZE // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE
    )


def _time_major(weight: Tensor) -> Tensor:
    """A convolution's (O, C, kernel) as (O, kernel * C)."""
    return weight.detach().transpose(1, 2).flatten(1).clone()


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """(B, T, C) → (B, T', O): a convolution over time as products of whole strides of frames.

    kernel: (O, taps * C) with stride <= taps <= 2 stride, as all of WavLM's have.
    """
    channels = x.shape[2]
    taps = kernel.shape[1] // channels
    out = (x.shape[1] - taps) // stride + 1
    whole = x[:, : out * stride].reshape(len(x), out, stride * channels)
    y = F.linear(whole, kernel[:, : stride * channels], bias)
    if taps > stride:
        after = x[:, stride : stride * (out + 1)]
        if after.shape[1] < out * stride:
            after = F.pad(after, (0, 0, 0, out * stride - after.shape[1]))
        after = after.unflatten(1, (out, stride))[:, :, : taps - stride].flatten(2)
        y = y + F.linear(after, kernel[:, stride * channels :])
    return y


def position_embedding(conv: Any, x: Tensor, back: int) -> Tensor:
    """WavLM's convolutional position embedding, (B, T, D) → (B, T, D), with gradients.

    conv: its grouped nn.Conv1d. back: how many frames before a frame its first tap is. Computed
    in the frequency domain: on a CPU the 128 taps took a fifth of a training step.
    """
    with torch.autocast(x.device.type, enabled=False):
        y = _correlate(x.float(), conv.weight, groups=conv.groups, back=back) + conv.bias
    return F.gelu(y).to(x.dtype)


def _correlate(x: Tensor, weight: Tensor, groups: int, back: int) -> Tensor:
    """(B, T, C) → (B, T, O): y[t] = sum over k of weight[k] x[t + k - back], zeros outside.

    weight: (O, C / groups, taps), as of a grouped convolution. back: under taps.
    """
    taps = weight.shape[-1]
    size = x.shape[1] + taps
    spectrum = torch.fft.rfft(x, size, dim=1).unflatten(2, (groups, -1))  # (B, F, G, C / G)
    kernel = torch.fft.rfft(weight, size).conj().unflatten(0, (groups, -1))  # (G, O / G, C / G, F)
    y = torch.einsum("bfgc,gocf->bfgo", spectrum, kernel).flatten(2)
    return torch.fft.irfft(y, size, dim=1).roll(back, 1)[:, : x.shape[1]]
