"""A distilled tokenizer at work: features → latents to look up, codes → features.

On a CPU utterances go through one by one, so that no work is spent on padding and no result depends
on a neighbour; on a GPU they are padded and masked.
"""

import torch
from torch import Tensor, nn

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.codec.focal import State
from tokenizer.config import FocalConfig
from tokenizer.encoder.linear import pack_linears


class Compression:
    """Both directions, without gradients."""

    def __init__(
        self,
        config: FocalConfig,
        weights: dict[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """weights: a tokenizer's, with "features.mean", "features.scale", "compressor.*" and
        "decompressor.*"; see check_weights.
        """
        self.device, self.dtype = torch.device(device), dtype
        self.mean = weights["features.mean"].to(self.device, torch.float32)
        self.scale = weights["features.scale"].to(self.device, torch.float32)
        self.compressor = self._ready(Compressor(config), weights, "compressor.")
        self.decompressor = self._ready(Decompressor(config), weights, "decompressor.")

    def _ready(self, module: nn.Module, weights: dict[str, Tensor], prefix: str) -> nn.Module:
        own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        module.load_state_dict(own)
        module.to(self.device, self.dtype).eval().requires_grad_(False)
        if self.device.type == "cpu":
            pack_linears(module)
        return module

    @torch.inference_mode()
    def latents(self, features: list[Tensor]) -> list[Tensor]:
        """(T, D) of each utterance → (ceil(T / frames_per_token), latent) fp32 of each."""
        rows = [self._standard(own) for own in features]
        return self._each(self.compressor, rows, 1, self.compressor.config.frames_per_token)

    @torch.inference_mode()
    def next_latents(
        self, features: Tensor, state: list[State] | None
    ) -> tuple[Tensor, list[State]]:
        """(T, D) of a stream's next chunk → its latents, as `latents` of all would give them.

        state: after the chunk before; None at the start. Causal form alone, and whole tokens'
        frames but at a stream's end.
        """
        latents, state = self.compressor(self._standard(features)[None], state=state)
        return latents[0].float(), state

    @torch.inference_mode()
    def features(self, codes: list[Tensor]) -> list[Tensor]:
        """(T', latent) of each utterance → (T' · frames_per_token, D) fp32 of each."""
        rows = [own.to(self.device, self.dtype) for own in codes]
        decoded = self._each(self.decompressor, rows, self.decompressor.config.frames_per_token, 1)
        return [own * self.scale + self.mean for own in decoded]

    @torch.inference_mode()
    def next_features(self, codes: Tensor, state: list[State] | None) -> tuple[Tensor, list[State]]:
        """(T', latent) of a stream's next chunk → (T' · frames_per_token, D) fp32, and the state.

        As next_latents: causal form alone, whole chunks but at a stream's end.
        """
        rows = codes.to(self.device, self.dtype)[None]
        decoded, state = self.decompressor(rows, state=state)
        return decoded[0].float() * self.scale + self.mean, state

    def _standard(self, features: Tensor) -> Tensor:
        return ((features.float() - self.mean) / self.scale).to(self.dtype)

    def _each(self, module: nn.Module, rows: list[Tensor], up: int, down: int) -> list[Tensor]:
        if self.device.type == "cpu":
            return [module(own[None])[0][0].float() for own in rows]
        lengths = [len(own) for own in rows]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        out = module(padded, lengths)[0].float()
        return [own[: -(-n * up // down)] for own, n in zip(out, lengths)]


def check_weights(config: FocalConfig, weights: dict[str, Tensor]) -> None:
    """Raises ValueError unless every weight of a compression is there, in its shape."""
    with torch.device("meta"):
        parts = {"compressor": Compressor(config), "decompressor": Decompressor(config)}
    shapes = {
        f"{part}.{name}": value.shape
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    shapes |= {"features.mean": torch.Size([config.width]), "features.scale": torch.Size([])}
    for name, shape in shapes.items():
        if name not in weights or weights[name].shape != shape:
            raise ValueError(f"{name} of {tuple(shape)}")
