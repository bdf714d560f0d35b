"""What a distilled tokenizer learns from: WavLM's own features, before and after its upper layers.

Compressor, quantiser and decompressor are trained so that the decompressed features are those that
frozen WavLM had at its layer, and so that the frozen upper layers, fed with them, end where they
would have ended: what the language model will be fed with then means what it meant.

These two alone leave it open which token says what: as compressor and decompressor look around,
tokens come to share between them what a frame is, and one alone says less of its phone than one of
plain k-means. So each code alone, by one linear layer, is asked for the top layer's frame too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WavLMModel

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.config import FocalConfig, LossWeights
from tokenizer.encoder.trainable_layers import run_layers


class Distillation(nn.Module):
    """Features of one layer → tokens → features, with the losses that teach it."""

    def __init__(
        self,
        config: FocalConfig,
        quantizer: nn.Module,
        mean: Tensor,
        scale: Tensor,
        weights: LossWeights,
    ) -> None:
        """mean, scale: (D,) and () of the features: they are standardised by these before all.

        WavLM's features have a few dimensions many times as large as the rest; the scale is one
        number for all, so that the error keeps their proportions.
        """
        super().__init__()
        self.compressor, self.decompressor = Compressor(config), Decompressor(config)
        self.quantizer, self.weights = quantizer, weights
        self.alone = nn.Linear(config.latent, config.frames_per_token * config.width)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def matrices(self) -> set[str]:
        """Parameters that Muon trains: the blocks' linear layers."""
        return {
            name
            for name, p in self.named_parameters()
            if ".layers." in name and p.ndim == 2 and "alpha" not in name
        }

    def latents(self, features: Tensor) -> Tensor:
        """(B, T, D) → (B, T', latent)."""
        return self.compressor((features - self.mean) / self.scale)[0]

    def forward(
        self, features: Tensor, upper: "UpperLayers | None", heard: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts. features: (B, T, D) of frozen WavLM's layer.

        heard: (B, T, D) of a causal encoder, to make tokens of; None makes them of the features.
        feature_error: squared error over the variance, so that the mean frame has 1. top_cosine:
        mean cosine between what the frozen upper layers give on true and on decompressed features.
        alone_cosine: between that and what one linear layer makes of each frame's code.
        """
        heard = features if heard is None else heard
        quantised, _, own = self.quantizer(self.latents(heard))
        decoded = self.decompressor(quantised)[0][:, : features.shape[1]]
        decoded = decoded.float() * self.scale + self.mean
        centred = features - self.mean
        error = (decoded - features).square().sum() / centred.square().sum()
        loss = self.weights.features * error + self.weights.quantizer * own
        parts = {"feature_error": error.detach(), "quantizer": own.detach()}
        if upper is not None:
            with torch.no_grad():
                wanted = upper(features).float()
            alone = self.alone(quantised).unflatten(-1, (-1, features.shape[-1])).flatten(1, 2)
            for name, weight, given in (
                ("top_cosine", self.weights.top, upper(decoded)),
                ("alone_cosine", self.weights.alone, alone[:, : features.shape[1]]),
            ):
                cosine = F.cosine_similarity(given.float(), wanted, dim=-1).mean()
                loss = loss + weight * (1 - cosine)
                parts[name] = cosine.detach()
        return loss, parts | self.quantizer.usage()


class Unquantised(nn.Module):
    """In a quantiser's place while compressor and decompressor warm up."""

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents as they are, all of one token, and no loss."""
        return (
            latents,
            latents.new_zeros(latents.shape[:-1], dtype=torch.long),
            latents.new_zeros(()),
        )

    def usage(self) -> dict[str, Tensor]:
        """There are no codes to use."""
        return {}


class UpperLayers(nn.Module):
    """Frozen WavLM above a layer: (B, T, D) → the top layer's (B, T, D), normed if pre-norm."""

    def __init__(self, wavlm: WavLMModel, layer: int) -> None:
        """layer: whose features come in."""
        super().__init__()
        self.wavlm, self.layer = wavlm.eval().requires_grad_(False), layer

    def forward(self, features: Tensor) -> Tensor:
        """Gradients reach the features."""
        x = run_layers(self.wavlm, features, self.layer)
        if self.wavlm.config.do_stable_layer_norm:
            x = self.wavlm.encoder.layer_norm(x)
        return x
