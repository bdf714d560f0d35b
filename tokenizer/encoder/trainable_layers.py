"""WavLM's transformer layers with gradients, on the weights of a `transformers.WavLMModel`.

For training the encoder, and for losses through frozen upper layers. All rows have one length;
wavlm_layer.py is the faster form for inference.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WavLMModel

from tokenizer.encoder.relative_position import bias_by_distance, position_gate


def run_layers(
    wavlm: WavLMModel,
    x: Tensor,
    first: int = 0,
    last: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(B, T, D) → same, through layers `first` up to `last`, without pre-norm's final norm.

    mask: (T, T), True where a query (row) may attend to a key; None where it may to all.
    """
    config = wavlm.config
    bias = position_bias(wavlm, x.shape[1])
    for layer in wavlm.encoder.layers[first:last]:
        if config.do_stable_layer_norm:
            x = x + attend(
                layer.attention, layer.layer_norm(x), bias=bias, config=config, mask=mask
            )
            x = x + _feed_forward(layer.feed_forward, layer.final_layer_norm(x))
        else:
            x = layer.layer_norm(
                x + attend(layer.attention, x, bias=bias, config=config, mask=mask)
            )
            x = layer.final_layer_norm(x + _feed_forward(layer.feed_forward, x))
    return x


def position_bias(wavlm: WavLMModel, frames: int) -> Tensor:
    """(H, T, T): the bias of key j for query i, before its gate."""
    table = wavlm.encoder.layers[0].attention.rel_attn_embed.weight
    place = torch.arange(frames)
    distance = place[None, :] - place[:, None]
    return bias_by_distance(table, frames, wavlm.config)[:, distance + frames - 1]


def attend(
    attention: Any, x: Tensor, bias: Tensor, config: Any, mask: Tensor | None = None
) -> Tensor:
    """Attention with gated relative position bias (WavLM, section 3.1), (B, T, D) → same.

    attention: a layer's, of transformers. config: a transformers.WavLMConfig.
    """
    heads = config.num_attention_heads
    q, k, v = (
        F.linear(x, layer.weight, layer.bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    parts = attention.gru_rel_pos_linear(x.unflatten(-1, (heads, -1)).transpose(1, 2))
    gate = position_gate(parts.unflatten(-1, (2, 4)).sum(-1), attention.gru_rel_pos_const[0])
    gated = gate * bias.to(gate.dtype)  # (B, H, T, 1) * (H, T, T)
    if mask is not None:
        gated = torch.where(mask, gated, -math.inf)
    if x.is_cpu:
        # PyTorch's fused kernel takes no bias that needs a gradient, and runs bf16 at fp32's speed.
        scores = torch.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + gated
        mixed = torch.matmul(torch.softmax(scores, -1), v)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=gated.to(q.dtype))
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _feed_forward(layer: Any, x: Tensor) -> Tensor:
    return layer.output_dense(F.gelu(layer.intermediate_dense(x)))
