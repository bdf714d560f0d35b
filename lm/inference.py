"""The language model for generation: packed linear layers, and a KV cache for each layer.

A step of one chunk reads every weight once, and that takes most of its time. So weights are laid
out for the machine's fastest kernel (tokenizer/encoder/linear.py), one product gives queries, keys,
values and gates, and bf16 halves the bytes read. The same holds for a decompressor that gives the
inputs: it runs in the model's precision, and the rows of a batch go through it together.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.config import PAD, START
from lm.model import Layer, SpeechLM
from lm.row_inputs import RowInputs
from tokenizer.codec.focal import pack_modulations
from tokenizer.config import EncoderConfig
from tokenizer.encoder.kv_cache import CachedLayers, KVCache
from tokenizer.encoder.linear import InferenceLinear, pack_linears
from tokenizer.encoder.wavlm_layer import TransformerLayer

# Positions of a prompt that go through the layers at once. A KV cache has room for as many beyond
# the window, so its contents move once in so many positions.
BLOCK = 256


@dataclass
class RowsState:
    """What is kept of the rows so far. A step updates it in place: use each state once.

    caches: one for each layer. starts: (B,), where each row starts after its left padding.
    padding: the longest such padding. inputs: of the rows' vectors. seen: positions so far.
    """

    caches: list[KVCache]
    starts: Tensor
    padding: int
    inputs: RowInputs
    seen: int = 0


class PackedLM:
    """A SpeechLM for inference chunk by chunk, on the model's device and in its precision."""

    def __init__(self, model: SpeechLM) -> None:
        """model: left unchanged, and not needed afterwards."""
        self.config = config = model.config
        weight = model.head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.inputs = copy.deepcopy(model.inputs).eval()
        if config.inputs == "decompressor":
            self.inputs.decompressor.to(self.dtype)
        if weight.is_cpu:
            pack_linears(self.inputs)
            pack_modulations(self.inputs)
        shape = EncoderConfig(
            layer=0,
            hidden_size=config.width,
            num_attention_heads=config.heads,
            intermediate_size=config.feed_forward,
            do_stable_layer_norm=True,
            layer_norm_eps=config.layer_norm_eps,
        )
        layers = cast(Iterable[Layer], model.encoder.layers)
        self.norm = model.encoder.norm.weight.detach(), model.encoder.norm.bias.detach()
        self.head = InferenceLinear(weight.detach())
        self.layers = CachedLayers(
            [TransformerLayer(_wavlm_names(layer), shape) for layer in layers],
            model.encoder.relative_embedding.weight.detach(),
            config,
            chunk=config.chunk,
            window=config.window,
            block=-(-BLOCK // config.chunk) * config.chunk,
        )

    @torch.inference_mode()
    def begin(self, prompts: list[Tensor]) -> tuple[Tensor, RowsState]:
        """(T,) tokens of each row, whole chunks or none → logits of its next chunk, and the state.

        Logits are (B, chunk, K) in fp32. A model without START needs a chunk of each row. Shorter
        prompts are padded on the left, so that all rows end together; padding changes nothing. A
        prompt may be of any length: all of it goes through inputs and layers, block by block.
        """
        starting = self.config.chunk if self.config.start else 0
        lengths = [starting + len(prompt) for prompt in prompts]
        longest, block = max(lengths), self.layers.block
        starts = torch.from_numpy(longest - np.array(lengths)).to(self.device)
        state = RowsState(
            self.layers.new_caches(),
            starts,
            padding=longest - min(lengths),
            inputs=RowInputs(self.inputs, len(prompts)),
        )
        tokens = torch.full((len(prompts), longest), PAD)
        for row, prompt in zip(tokens, prompts):
            row[longest - len(prompt) - starting :] = START
            row[longest - len(prompt) :] = prompt
        for start in range(0, longest, block):
            part = tokens[:, start : start + block].to(self.device)
            ahead = (longest - len(prompt) - start for prompt in prompts)
            first = [min(max(count, 0), part.shape[1]) for count in ahead]
            last = self._after(state.inputs.vectors(part, first), state)
        return self._logits(last), state

    @torch.inference_mode()
    def step(self, tokens: Tensor, state: RowsState) -> Tensor:
        """(B, chunk) tokens, the next of each row → logits (B, chunk, K) fp32 of those after."""
        return self._logits(self._after(state.inputs.vectors(tokens.to(self.device)), state))

    def _logits(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:], *self.norm, eps=self.config.layer_norm_eps)
        return self.head(x).float()

    def _after(self, x: Tensor, state: RowsState) -> Tensor:
        """A block of whole chunks (B, T, D) → the layers' output for its last chunk."""
        allowed = self._allowed(x.shape[1], state)
        x = self.layers(x.to(self.dtype), state.caches, state.seen, allowed=allowed)
        state.seen += x.shape[1]
        return x[:, -self.config.chunk :]

    def _allowed(self, length: int, state: RowsState) -> Tensor | None:
        """(B, T, P + T), False where the key is padding; None where no key is."""
        kept = min(state.seen, self.config.window)
        first = state.seen - kept
        if state.padding <= first:
            return None
        place = torch.arange(first, state.seen + length, device=self.device)
        inside = place >= state.starts[:, None]
        # Padding attends to padding: the softmax of a query without any key would be NaN.
        return inside[:, None] | ~inside[:, kept:, None]


def _wavlm_names(layer: Layer) -> dict[str, Tensor]:
    """A layer's weights under the names that WavLM's inference takes."""
    weights = {name: value.detach() for name, value in layer.state_dict().items()}
    names = {}
    for part in ("weight", "bias"):
        for name, value in zip("qkv", weights[f"attention.qkv_proj.{part}"].chunk(3)):
            names[f"attention.{name}_proj.{part}"] = value
        for name, lm_name in (
            ("layer_norm", "attention_norm"),
            ("attention.out_proj", "attention.out_proj"),
            ("attention.gru_rel_pos_linear", "attention.gru_rel_pos_linear"),
            ("final_layer_norm", "feed_forward_norm"),
            ("feed_forward.intermediate_dense", "feed_forward.in_proj"),
            ("feed_forward.output_dense", "feed_forward.out_proj"),
        ):
            names[f"{name}.{part}"] = weights[f"{lm_name}.{part}"]
    names["attention.gru_rel_pos_const"] = weights["attention.gru_rel_pos_const"]
    return names
