"""Start a language model from the upper layers of a WavLM, as WavSLM does (arXiv 2603.05299)."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lm.config import LMError
from lm.model import SpeechLM


@torch.no_grad()
def start_from_wavlm(model: SpeechLM, wavlm: Any, first_layer: int) -> None:
    """Copy WavLM's layers from `first_layer` (0 is its lowest) on, its bias table and final norm.

    wavlm: a transformers.WavLMModel; the caller imports transformers, which is slow. Inputs are no
    longer standardised: they are the features that the first layer got in WavLM. Raises LMError
    when shapes differ, WavLM has too few layers, or its layers are post-norm.
    """
    config, their_config = model.config, wavlm.config
    if not their_config.do_stable_layer_norm:
        raise LMError("this WavLM norms after each part of a layer, and the model before it")
    if config.inputs == "embedding" or model.inputs.in_proj is not None:
        raise LMError("a model starts from WavLM's layers only on features of WavLM's width")
    if first_layer < 0 or first_layer + config.layers > their_config.num_hidden_layers:
        raise LMError(
            f"layers {first_layer + 1} to {first_layer + config.layers} are asked of a WavLM with "
            f"{their_config.num_hidden_layers}"
        )
    for name, their_name in (
        ("width", "hidden_size"),
        ("heads", "num_attention_heads"),
        ("feed_forward", "intermediate_size"),
        ("num_buckets", "num_buckets"),
        ("max_bucket_distance", "max_bucket_distance"),
    ):
        value, their_value = getattr(config, name), getattr(their_config, their_name)
        if value != their_value:
            raise LMError(f"the model's {name} is {value}, WavLM's {their_value}")
    encoder, eps = model.encoder, their_config.layer_norm_eps
    model.config = encoder.config = replace(config, layer_norm_eps=eps)
    table = wavlm.encoder.layers[0].attention.rel_attn_embed.weight
    encoder.relative_embedding.weight.copy_(table)
    _copy_module(encoder.norm, wavlm.encoder.layer_norm, eps)
    for layer, their_layer in zip(encoder.layers, wavlm.encoder.layers[first_layer:]):
        _copy_layer(layer, their_layer, eps)
    model.inputs.leave_untouched()


def _copy_layer(layer: Any, theirs: Any, eps: float) -> None:
    """Copy a WavLM layer's weights. layer: a Layer."""
    attention, feed_forward = theirs.attention, theirs.feed_forward
    projections = [getattr(attention, f"{part}_proj") for part in "qkv"]
    layer.attention.qkv_proj.weight.copy_(torch.cat([part.weight for part in projections]))
    layer.attention.qkv_proj.bias.copy_(torch.cat([part.bias for part in projections]))
    layer.attention.gru_rel_pos_const.copy_(attention.gru_rel_pos_const)
    for module, source in (
        (layer.attention_norm, theirs.layer_norm),
        (layer.attention.out_proj, attention.out_proj),
        (layer.attention.gru_rel_pos_linear, attention.gru_rel_pos_linear),
        (layer.feed_forward_norm, theirs.final_layer_norm),
        (layer.feed_forward.in_proj, feed_forward.intermediate_dense),
        (layer.feed_forward.out_proj, feed_forward.output_dense),
    ):
        _copy_module(module, source, eps)


def _copy_module(module: nn.Module, source: nn.Module, eps: float) -> None:
    module.load_state_dict(source.state_dict())
    if isinstance(module, nn.LayerNorm):
        module.eps = eps
