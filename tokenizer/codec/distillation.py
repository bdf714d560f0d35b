"""The losses that train a distilled tokenizer, against WavLM's features and its upper layers.

Compressor, quantizer and decompressor are trained so that the decompressed features match those of
frozen WavLM at its layer, and so that the frozen upper layers give on them what they give on the
true features. The language model, which is fed with decompressed features, then starts from inputs
that WavLM's weights know.

These two losses do not decide which token carries what: compressor and decompressor see context, so
a phone may be spread over neighbouring tokens, and one token alone then says less about its phone
than a plain k-means token. A third loss therefore asks each code alone, through one linear layer,
for the top layer's output at its frames.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WavLMModel

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.config import FocalConfig, LossWeights
from tokenizer.encoder.trainable_layers import run_layers


class Distillation(nn.Module):
    """Features of one layer → tokens → features, with the losses.

    mean: (D,) and scale: (), which standardise the features.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        config: FocalConfig,
        quantizer: nn.Module,
        *,
        mean: Tensor,
        scale: Tensor,
        weights: LossWeights,
    ) -> None:
        """mean: (D,) and scale: () of the features, which are standardised before anything else.

        The scale is one number for all dimensions: a few dimensions of WavLM's features are many
        times larger than the rest, and the error should keep these proportions.
        """
        super().__init__()
        self.compressor, self.decompressor = Compressor(config), Decompressor(config)
        # Replaced after the warm-up by another kind.
        self.quantizer: Any = quantizer
        self.weights = weights
        self.alone = nn.Linear(config.latent, config.frames_per_token * config.width)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def matrices(self) -> set[str]:
        """Names of the parameters that Muon trains: the linear layers of the blocks."""
        return {
            name
            for name, p in self.named_parameters()
            if ".layers." in name and p.ndim == 2 and "alpha" not in name
        }

    def latents(self, features: Tensor) -> Tensor:
        """(B, T, D) → (B, T', latent)."""
        return self.compressor((features - self.mean) / self.scale)[0]

    def forward(
        self, features: Tensor, upper: "UpperLayers | None", inputs: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss () of a batch, and its parts for the log.

        features: (B, T, D) of frozen WavLM's layer, the target. inputs: (B, T, D) of a causal
        encoder, which are tokenized instead of the features; None tokenizes the features.
        feature_error: squared error over variance, 1 for the mean frame. top_cosine: mean cosine
        between the frozen upper layers' outputs on true and on decompressed features.
        alone_cosine: mean cosine between the former and what one linear layer predicts from each
        frame's code.
        """
        inputs = features if inputs is None else inputs
        quantised, _, quantizer_loss = self.quantizer(self.latents(inputs))
        decoded = self.decompressor(quantised)[0][:, : features.shape[1]]
        decoded = decoded.float() * self.scale + self.mean
        centred = features - self.mean
        error = (decoded - features).square().sum() / centred.square().sum()
        loss = self.weights.features * error + self.weights.quantizer * quantizer_loss
        parts = {"feature_error": error.detach(), "quantizer": quantizer_loss.detach()}
        if upper is not None:
            with torch.no_grad():
                target = upper(features).float()
            alone = self.alone(quantised).unflatten(-1, (-1, features.shape[-1])).flatten(1, 2)
            for name, weight, predicted in (
                ("top_cosine", self.weights.top, upper(decoded)),
                ("alone_cosine", self.weights.alone, alone[:, : features.shape[1]]),
            ):
                cosine = F.cosine_similarity(predicted.float(), target, dim=-1).mean()
                loss = loss + weight * (1 - cosine)
                parts[name] = cosine.detach()
        return loss, parts | self.quantizer.usage()


class Unquantised(nn.Module):
    """Takes the quantizer's place while compressor and decompressor warm up."""

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) → the same latents, tokens (...) that are all 0, and a loss () of 0."""
        return (
            latents,
            latents.new_zeros(latents.shape[:-1], dtype=torch.long),
            latents.new_zeros(()),
        )

    def usage(self) -> dict[str, Tensor]:
        """Nothing: there are no codes."""
        return {}


class UpperLayers(nn.Module):
    """Frozen WavLM above a layer: (B, T, D) → the top layer's (B, T, D), normed if pre-norm."""

    def __init__(self, wavlm: WavLMModel, layer: int) -> None:
        """layer: the one whose features come in."""
        super().__init__()
        self.wavlm, self.layer = wavlm.eval().requires_grad_(False), layer

    def forward(self, features: Tensor) -> Tensor:
        """Gradients reach the features."""
        x = run_layers(self.wavlm, features, self.layer)
        if self.wavlm.config.do_stable_layer_norm:
            x = self.wavlm.encoder.layer_norm(x)
        return x
