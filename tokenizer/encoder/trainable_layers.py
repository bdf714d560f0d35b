"""WavLM's transformer layers with gradients, on the weights of a `transformers.WavLMModel`.

For training: of the encoder, and of whatever is judged by what frozen upper layers make of it.
Rows are of one length; tokenizer/encoder/wavlm_layer.py has the faster form for inference.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WavLMModel

from tokenizer.encoder.wavlm import position_buckets


def run_layers(
    wavlm: WavLMModel,
    x: Tensor,
    first: int = 0,
    last: int | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """(B, T, D) → same, through layers `first` up to `last`, without the final norm of pre-norm.

    hidden: (T, T), True where a query (row) must not see a key.
    """
    config = wavlm.config
    bias = position_bias(wavlm, x.shape[1])
    for layer in wavlm.encoder.layers[first:last]:
        if config.do_stable_layer_norm:
            x = x + attend(
                layer.attention, layer.layer_norm(x), bias=bias, config=config, hidden=hidden
            )
            x = x + _feed_forward(layer.feed_forward, layer.final_layer_norm(x))
        else:
            x = layer.layer_norm(
                x + attend(layer.attention, x, bias=bias, config=config, hidden=hidden)
            )
            x = layer.final_layer_norm(x + _feed_forward(layer.feed_forward, x))
    return x


def position_bias(wavlm: WavLMModel, frames: int) -> Tensor:
    """(H, T, T): the bias of key j for query i, before its gate."""
    table = wavlm.encoder.layers[0].attention.rel_attn_embed.weight
    by_distance = table[position_buckets(frames, wavlm.config).to(table.device)].T  # (H, 2 T - 1)
    place = torch.arange(frames)
    return by_distance[:, place[None, :] - place[:, None] + frames - 1]


def attend(
    attention: nn.Module, x: Tensor, bias: Tensor, config, hidden: Tensor | None = None
) -> Tensor:
    """Attention with gated relative position bias (WavLM, section 3.1), (B, T, D) → same."""
    heads = config.num_attention_heads
    q, k, v = (
        F.linear(x, layer.weight, layer.bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    parts = attention.gru_rel_pos_linear(x.unflatten(-1, (heads, -1)).transpose(1, 2))
    first, second = torch.sigmoid(parts.unflatten(-1, (2, 4)).sum(-1)).chunk(2, dim=-1)
    gate = first * (second * attention.gru_rel_pos_const[0] - 1.0) + 2.0  # (B, H, T, 1)
    gated = gate * bias.to(gate.dtype)
    if hidden is not None:
        gated = gated.masked_fill(hidden, -math.inf)
    if x.is_cpu:
        # PyTorch's fused kernel takes no bias that wants a gradient, and bf16 at fp32's speed.
        scores = torch.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + gated
        mixed = torch.matmul(torch.softmax(scores, -1), v)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=gated.to(q.dtype))
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _feed_forward(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.output_dense(F.gelu(layer.intermediate_dense(x)))
