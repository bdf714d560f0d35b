"""The language model for generation: packed products, and what was said kept as keys and values.

A step of one chunk reads every weight once, which is what its time goes to: the products' weights
are laid out for the machine's fastest kernel (tokenizer/encoder/linear.py), queries, keys, values
and gates come from one of them, and in bf16 half the bytes are read.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.attention import bias_by_distance
from lm.model import Layer, SpeechLM
from tokenizer.codec.focal import State
from tokenizer.config import EncoderConfig
from tokenizer.encoder.causal_wavlm import Past
from tokenizer.encoder.linear import InferenceLinear, pack_linears
from tokenizer.encoder.wavlm_layer import TransformerLayer

# Positions of a prompt that go through the layers at once, and that a buffer has room for beyond
# the window: it moves once in so many.
BLOCK = 256


@dataclass
class RowsState:
    """What is kept of rows so far. Each step changes it for the next: use it once.

    past: keys and values of each layer. seen: positions so far. starts: (B,) the first position
    that is a row's own; padding: the last of these. decompressor: the state of each row, or None.
    """

    past: list[Past]
    starts: Tensor
    padding: int
    decompressor: list[list[State] | None]
    seen: int = 0


class PackedLM:
    """A SpeechLM without gradients, of its device and precision, chunk after chunk."""

    def __init__(self, model: SpeechLM) -> None:
        """The model is left as it is, and not needed any more."""
        self.config = config = model.config
        weight = model.head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.inputs = copy.deepcopy(model.inputs).eval()
        if weight.is_cpu:
            pack_linears(self.inputs)
        shape = EncoderConfig(
            layer=0,
            hidden_size=config.width,
            num_attention_heads=config.heads,
            intermediate_size=config.feed_forward,
            do_stable_layer_norm=True,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.layers = [TransformerLayer(_wavlm_names(own), shape) for own in model.encoder.layers]
        self.norm = model.encoder.norm.weight.detach(), model.encoder.norm.bias.detach()
        self.head = InferenceLinear(weight.detach())
        self.block = -(-BLOCK // config.chunk) * config.chunk
        keys = config.window + self.block
        table = model.encoder.relative_embedding.weight.detach()
        # Query i of a block, key j from `window` before it: the bias at distance j - window - i.
        by_distance = bias_by_distance(table, keys, config)
        self.bias = by_distance.unfold(1, keys, 1)[:, : self.block].flip(1).contiguous()
        place = torch.arange(self.block, device=self.device)[:, None]
        key = torch.arange(-config.window, self.block, device=self.device)
        own = place - place % config.chunk
        self.hidden = (key >= own + config.chunk) | (key < own - config.window)

    @torch.inference_mode()
    def begin(self, prompts: list[Tensor]) -> tuple[Tensor, RowsState]:
        """(T,) tokens of each row, whole chunks or none → logits (B, chunk, K) fp32 of what comes.

        Rows are put side by side so that they end together; one begins as if nothing were before.
        """
        config, chunk = self.config, self.config.chunk
        lengths = [chunk + len(own) for own in prompts]
        longest, decompressor = max(lengths), []
        x = torch.zeros(len(prompts), longest, config.width, device=self.device)
        for row, own in enumerate(prompts):
            x[row, longest - lengths[row] :][:chunk] = self.inputs.start
            decompressor.append(None)
            if len(own):
                vectors, decompressor[row] = self._vectors(own[None].to(self.device), None)
                x[row, longest - len(own) :] = vectors[0]
        starts = torch.tensor([longest - length for length in lengths], device=self.device)
        padding = longest - min(lengths)
        past = [Past(config.window, self.block) for _ in self.layers]
        state = RowsState(past, starts, padding=padding, decompressor=decompressor)
        for block in x.split(self.block, dim=1):
            last = self._after(block, state)
        return self._logits(last), state

    @torch.inference_mode()
    def step(self, tokens: Tensor, state: RowsState) -> Tensor:
        """(B, chunk) tokens, the next of each row → logits (B, chunk, K) fp32 of those after."""
        tokens = tokens.to(self.device)
        if self.config.inputs == "decompressor":
            # Row by row: one that begins has no state yet.
            parts = [self._vectors(own[None], s) for own, s in zip(tokens, state.decompressor)]
            state.decompressor = [after for _, after in parts]
            x = torch.cat([vectors for vectors, _ in parts])
        else:
            x = self.inputs.of_tokens(tokens)
        return self._logits(self._after(x, state))

    def _vectors(
        self, tokens: Tensor, state: list[State] | None
    ) -> tuple[Tensor, list[State] | None]:
        """(B, T) tokens alone, after a decompressor's state → (B, T, D), and the state."""
        if self.config.inputs != "decompressor":
            return self.inputs.of_tokens(tokens), None
        features, state = self.inputs.decompress(tokens, state)
        return self.inputs.from_features(features), state

    def _logits(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:], *self.norm, eps=self.config.layer_norm_eps)
        return self.head(x).float()

    def _after(self, x: Tensor, state: RowsState) -> Tensor:
        """A block of whole chunks (B, t, D) → what the layers make of its last chunk."""
        config, (batch, length, width) = self.config, x.shape
        x = x.to(self.dtype)
        kept = min(state.seen, config.window)
        shown = slice(config.window - kept, config.window + length)
        bias, hidden = self.bias[:, :length, shown], self._hidden(length, kept, state)
        for layer, past in zip(self.layers, state.past):
            qkv, gate = layer.project(x.flatten(0, 1))
            q, k, v = qkv.view(batch, length, 3, config.heads, -1).permute(2, 0, 3, 1, 4)
            k, v = past.extended(k, v)
            gate = gate.view(batch, length, -1, 1).transpose(1, 2)
            mixed = layer.attention(q, k, v, gate, bias, hidden).transpose(1, 2)
            x = layer.finish(x.flatten(0, 1), mixed.reshape(batch * length, width))
            x = x.view(batch, length, width)
        state.seen += length
        return x[:, -config.chunk :]

    def _hidden(self, length: int, kept: int, state: RowsState) -> Tensor | None:
        """(B, t, K): what a query must not see; None where it may see all that is kept."""
        first = state.seen - kept
        if length <= self.config.chunk and state.padding <= first:
            return None
        hidden = self.hidden[None, :length, self.config.window - kept :][..., : kept + length]
        if state.padding <= first:
            return hidden.expand(len(state.starts), -1, -1)
        place = torch.arange(first, state.seen + length, device=self.device)
        outside = place < state.starts[:, None]
        # Padding is seen by padding alone: a query that sees nothing would be no number.
        return hidden | (outside[:, None] & ~outside[:, kept:, None])


def _wavlm_names(layer: Layer) -> dict[str, Tensor]:
    """A layer's weights as WavLM's inference has them."""
    own = {name: value.detach() for name, value in layer.state_dict().items()}
    names = {}
    for part in ("weight", "bias"):
        for name, value in zip("qkv", own[f"attention.qkv_proj.{part}"].chunk(3)):
            names[f"attention.{name}_proj.{part}"] = value
        for theirs, ours in (
            ("layer_norm", "attention_norm"),
            ("attention.out_proj", "attention.out_proj"),
            ("attention.gru_rel_pos_linear", "attention.gru_rel_pos_linear"),
            ("final_layer_norm", "feed_forward_norm"),
            ("feed_forward.intermediate_dense", "feed_forward.in_proj"),
            ("feed_forward.output_dense", "feed_forward.out_proj"),
        ):
            names[f"{theirs}.{part}"] = own[f"{ours}.{part}"]
    names["attention.gru_rel_pos_const"] = own["attention.gru_rel_pos_const"]
    return names
