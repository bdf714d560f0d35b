"""The tensors of a FocalCodec checkpoint: their names and shapes, and ours that they hold.

There are two generations of names. v0.0.2 has one projection for queries, keys and values, and
calls a block's parts by name. v0.0.1 has three projections, and numbers the parts. Everything else
of compressor, decompressor and vocoder has one name there and here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import EncoderConfig, FocalConfig, VocoderConfig

# Prefixes of our names: a tokenizer's weights, and those of its vocoder's file.
OURS_ENCODER, OURS_VOCODER = "encoder.", "vocoder."
# The parts of a layer of compressor and decompressor, in the order in which v0.0.1 numbers them.
PARTS = {"compressor": ("downscale", "focal_block"), "decompressor": ("focal_block", "upscale")}
PART = re.compile(r"(compressor|decompressor)\.layers\.(\d+)\.(\w+)\.(.+)")
# In v0.0.1: a norm that is never used, and the places of a token's bits, most significant first.
UNUSED = ("encoder.encoder.norm.weight", "encoder.encoder.norm.bias")
BIT_PLACES = "quantizer.mask"


@dataclass(frozen=True)
class TheirTensor:
    """A tensor of theirs. ours: what it holds, one after the other along the first axis."""

    name: str
    shape: tuple[int, ...]
    ours: tuple[str, ...]


def tensors(
    encoder: EncoderConfig,
    compression: tuple[FocalConfig, FocalConfig],
    vocoder: VocoderConfig,
    *,
    numbered: bool = False,
) -> list[TheirTensor]:
    """All tensors of a codec of these shapes. numbered: with v0.0.1's names.

    compression: of the compressor and of the decompressor.
    """
    with torch.device("meta"):
        down, up = Compressor(compression[0]), Decompressor(compression[1])
        decoder = Vocoder(vocoder)
    codec = [*_module(down, "compressor.", "compressor.")]
    codec += _module(up, "decompressor.", "decompressor.")
    if numbered:
        codec = [replace(tensor, name=numbered_name(tensor.name)) for tensor in codec]
    return [*_encoder(encoder, numbered), *codec, *_module(decoder, "decoder.", OURS_VOCODER)]


def is_numbered(names: set[str]) -> bool:
    """Whether these are v0.0.1's names."""
    return any(
        re.search(r"\.[qkv]_proj\.", name) or re.match(r"\w+\.layers\.\d+\.\d+\.", name)
        for name in names
    )


def named(name: str) -> str:
    """A name of compressor or decompressor in v0.0.1 → in v0.0.2; any other name is unchanged."""
    found = PART.fullmatch(name)
    if not found or found[3] not in ("0", "1"):
        return name
    module, layer, part, rest = found.groups()
    return f"{module}.layers.{layer}.{PARTS[module][int(part)]}.{rest}"


def numbered_name(name: str) -> str:
    """The inverse of `named`."""
    found = PART.fullmatch(name)
    if not found:
        return name
    module, layer, part, rest = found.groups()
    return f"{module}.layers.{layer}.{PARTS[module].index(part)}.{rest}"


def _encoder(config: EncoderConfig, numbered: bool) -> Iterator[TheirTensor]:
    width, inside, channels = config.hidden_size, config.intermediate_size, 1

    def both(theirs: str, ours: str, *shape: int) -> list[TheirTensor]:
        shapes = {"weight": shape, "bias": shape[:1]}
        return [
            TheirTensor(f"encoder.{theirs}.{kind}", size, (f"{OURS_ENCODER}{ours}.{kind}",))
            for kind, size in shapes.items()
        ]

    for i, (out, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel)):
        theirs, ours = f"feature_extractor.layers.{i}", f"feature_extractor.conv_layers.{i}"
        yield both(f"{theirs}.conv", f"{ours}.conv", out, channels, kernel)[0]
        yield from both(f"{theirs}.norm", f"{ours}.layer_norm", out)
        channels = out
    yield from both("norm", "feature_projection.layer_norm", channels)
    yield from both("feature_proj", "feature_projection.projection", width, channels)
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    yield from both(
        "encoder.positional_embedding.conv",
        "encoder.pos_conv_embed.conv",
        *(width, width // groups, kernel),
    )
    table = (config.num_buckets, config.num_attention_heads)
    yield both("encoder.relative_embedding", "encoder.layers.0.attention.rel_attn_embed", *table)[0]
    for i in range(config.layer):
        layer = f"encoder.layers.{i}."
        attention = layer + "attention."
        yield from both(layer + "attention_norm", layer + "layer_norm", width)
        projections = [f"{attention}{name}_proj" for name in "qkv"]
        if numbered:
            for name in projections:
                yield from both(name, name, width, width)
        else:
            yield from _fused(f"encoder.{attention}qkv_proj", projections, width)
        yield from both(attention + "out_proj", attention + "out_proj", width, width)
        gate = attention + "gru_rel_pos_linear"
        yield from both(gate, gate, 8, config.head_dim)
        scale = attention + "gru_rel_pos_const"
        shape = (1, config.num_attention_heads, 1, 1)
        yield TheirTensor(f"encoder.{scale}", shape, (OURS_ENCODER + scale,))
        yield from both(layer + "feed_forward_norm", layer + "final_layer_norm", width)
        ours = layer + "feed_forward."
        yield from both(ours + "in_proj", ours + "intermediate_dense", inside, width)
        yield from both(ours + "out_proj", ours + "output_dense", width, inside)


def _fused(theirs: str, projections: list[str], width: int) -> Iterator[TheirTensor]:
    for kind, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
        ours = tuple(f"{OURS_ENCODER}{name}.{kind}" for name in projections)
        yield TheirTensor(f"{theirs}.{kind}", shape, ours)


def _module(module: nn.Module, theirs: str, ours: str) -> Iterator[TheirTensor]:
    """The tensors of a module of ours that has their names."""
    for name, value in module.state_dict().items():
        yield TheirTensor(theirs + name, tuple(value.shape), (ours + name,))
