"""Compressor and decompressor for inference: features → latents to look up, codes → features.

On a CPU utterances are processed one by one: no work is spent on padding, and no result depends on
the rest of the batch. On a GPU they are padded and masked.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.codec.focal import State, pack_modulations
from tokenizer.config import FocalConfig
from tokenizer.encoder.linear import pack_linears

Module = TypeVar("Module", bound=nn.Module)


class Compression:
    """Compressor and decompressor of a distilled tokenizer, without gradients."""

    def __init__(
        self,
        config: FocalConfig,
        weights: dict[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """weights: a tokenizer's, among them "features.mean", "features.scale", "compressor.*"
        and "decompressor.*", as check_weights wants them.
        """
        self.device, self.dtype = torch.device(device), dtype
        self.mean = weights["features.mean"].to(self.device, torch.float32)
        self.scale = weights["features.scale"].to(self.device, torch.float32)
        self.compressor, self.decompressor = Compressor(config), Decompressor(config)
        for prefix, module in (
            ("compressor.", self.compressor),
            ("decompressor.", self.decompressor),
        ):
            state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            for_inference(module, state, device=self.device, dtype=self.dtype)
            # In fp32 every bit of a token's latent stays as it was before there was a packed form.
            if self.device.type == "cpu" and dtype == torch.bfloat16:
                pack_modulations(module)

    @torch.inference_mode()
    def latents(self, features: list[Tensor]) -> list[Tensor]:
        """(T, D) of each utterance → (ceil(T / frames_per_token), latent) fp32 of each."""
        rows = [self._standardised(utterance) for utterance in features]
        frames_per_token = self.compressor.config.frames_per_token
        return self._run(self.compressor, rows, multiply=1, divide=frames_per_token)

    def padded_latents(self, features: Tensor, ends: Tensor) -> Tensor:
        """(B, T, D) padded features → (B, ceil(T / frames_per_token), latent) fp32.

        ends: (B,), frames of each utterance, on the device: nothing is copied to it or from it.
        For torch.compile, with B and T that vary.
        """
        return self.compressor(self._standardised(features), ends)[0].float()

    @torch.inference_mode()
    def next_latents(
        self, features: Tensor, state: list[State] | None
    ) -> tuple[Tensor, list[State]]:
        """(T, D) of a stream's next chunk → its latents, and the state for the chunk after.

        All chunks together give what `latents` gives. state: from the chunk before; None for the
        first. Only for the causal form, and T is a multiple of frames_per_token except at the end.
        """
        latents, next_state = self.compressor(self._standardised(features)[None], state=state)
        return latents[0].float(), next_state

    @torch.inference_mode()
    def features(self, codes: list[Tensor]) -> list[Tensor]:
        """(T', latent) of each utterance → (T' · frames_per_token, D) fp32 of each."""
        rows = [utterance.to(self.device, self.dtype) for utterance in codes]
        frames_per_token = self.decompressor.config.frames_per_token
        decoded = self._run(self.decompressor, rows, multiply=frames_per_token, divide=1)
        return [utterance * self.scale + self.mean for utterance in decoded]

    @torch.inference_mode()
    def next_features(self, codes: Tensor, state: list[State] | None) -> tuple[Tensor, list[State]]:
        """(T', latent) of a stream's next chunk → (T' · frames_per_token, D) fp32, and the state.

        As next_latents: only for the causal form, and in whole chunks except at the end.
        """
        rows = codes.to(self.device, self.dtype)[None]
        decoded, next_state = self.decompressor(rows, state=state)
        return decoded[0].float() * self.scale + self.mean, next_state

    def _standardised(self, features: Tensor) -> Tensor:
        return ((features.float() - self.mean) / self.scale).to(self.dtype)

    def _run(
        self, module: nn.Module, rows: list[Tensor], multiply: int, divide: int
    ) -> list[Tensor]:
        """(T, ·) of each utterance → (ceil(T · multiply / divide), ·) fp32 of each."""
        if self.device.type == "cpu":
            return [module(utterance[None])[0][0].float() for utterance in rows]
        if not rows:
            return []
        lengths = [len(utterance) for utterance in rows]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        batch = module(padded, lengths)[0].float()
        return [utterance[: -(-n * multiply // divide)] for utterance, n in zip(batch, lengths)]


def for_inference(
    module: Module,
    weights: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Module:
    """Load a module's weights and prepare it, in place, to run without gradients."""
    module.load_state_dict(weights)
    module.to(device, dtype).eval().requires_grad_(False)
    if device.type == "cpu":
        pack_linears(module)
    return module


def check_weights(config: FocalConfig, weights: dict[str, Tensor]) -> None:
    """Raises ValueError, with name and shape, for the first weight that is missing or misshapen."""
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
