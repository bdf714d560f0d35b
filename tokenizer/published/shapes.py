"""The shapes of a FocalCodec checkpoint's parts, as this project has them.

Published configurations cannot be relied on for shapes: defaults changed between releases. Kernels,
widths, factors, windows and numbers of layers are therefore read from the tensors. The
configuration gives what shapes do not say, and stands in where a tensor is missing, so that all
that is wrong can be listed at once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tokenizer.audio.frames import SAMPLES_PER_FRAME
from tokenizer.config import EncoderConfig, EncoderError, FocalConfig, VocoderConfig
from tokenizer.published.their_config import DEFAULTS

Shapes = dict[str, tuple[int, ...]]
# No FocalCodec has as many levels of context or as many bits as this.
MOST_LEVELS, MOST_BITS = 16, 20


@dataclass
class ShapeReader:
    """Reads sizes from tensors, or from a part's settings where a tensor is missing.

    shapes: by v0.0.2's names. settings: of each part, complete. problems: what this project cannot
    hold; the reader adds to it.
    """

    shapes: Shapes
    settings: dict[str, dict[str, Any]]
    problems: list[str] = field(default_factory=list)

    def size(self, name: str, axis: int, otherwise: int) -> int:
        """The size of a tensor's axis."""
        shape = self.shapes.get(name, ())
        return shape[axis] if axis < len(shape) else otherwise

    def count(self, prefix: str, otherwise: int) -> int:
        """The number of layers whose tensors' names start with this prefix and a number."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d{1,2})\.")
        numbers = [int(found[1]) for name in self.shapes if (found := pattern.match(name))]
        return max(numbers) + 1 if numbers else otherwise

    def sizes(self, names: Iterable[str], axis: int, otherwise: list[int]) -> list[int]:
        """The size of an axis of each tensor. otherwise: for each; its last one also for more."""
        spare = otherwise or [1]
        return [
            self.size(name, axis, spare[min(i, len(spare) - 1)]) for i, name in enumerate(names)
        ]

    def refuse(self, key: str, why: str) -> None:
        """Add a problem with this key of the configuration."""
        self.problems.append(f"{key} {why}")


def encoder_shape(reader: ShapeReader) -> EncoderConfig:
    """The encoder's shape."""
    settings = reader.settings["encoder"]
    conv, layer = "encoder.feature_extractor.layers", "encoder.encoder.layers.0"
    convs = range(reader.count(conv, len(settings["hidden_dims"])))
    weights = [f"{conv}.{i}.conv.weight" for i in convs]
    width = reader.size("encoder.feature_proj.weight", 0, settings["dim"])
    position = "encoder.encoder.positional_embedding.conv.weight"
    buckets = "encoder.encoder.relative_embedding.weight"
    heads = reader.size(buckets, 1, settings["num_heads"])
    layers = reader.count("encoder.encoder.layers", settings["num_layers"])
    values: dict[str, Any] = {
        "layer": layers,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": reader.size(f"{layer}.attention.gru_rel_pos_const", 1, heads),
        "intermediate_size": reader.size(
            f"{layer}.feed_forward.in_proj.weight", 0, settings["ffn_dim"]
        ),
        "conv_dim": reader.sizes(weights, 0, settings["hidden_dims"]),
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": reader.size(position, 2, settings["conv_pos"]),
        "num_conv_pos_embedding_groups": max(
            1, width // reader.size(position, 1, max(1, width // settings["conv_pos_groups"]))
        ),
        "num_buckets": reader.size(buckets, 0, settings["num_buckets"]),
        "max_bucket_distance": settings["max_distance"],
    }
    if width % values["num_attention_heads"]:
        reader.refuse("encoder_config.num_heads", f"does not divide the width {width}")
    if not 1 <= values["num_buckets"] // 4 < settings["max_distance"]:
        reader.refuse("encoder_config.max_distance", "is not over a quarter of num_buckets")
    if settings["causal"]:
        values |= _causal_encoder(reader)
    kernels = reader.sizes(weights, 2, settings["kernel_sizes"])
    try:
        return EncoderConfig(**values, conv_kernel=kernels, conv_stride=settings["strides"])
    except EncoderError as error:
        reader.refuse("encoder_config.kernel_sizes or strides:", error.problem)
        return EncoderConfig(**values)


def _causal_encoder(reader: ShapeReader) -> dict[str, Any]:
    settings = reader.settings["encoder"]
    window, chunk = settings["window_size"], settings["lookahead_size"] + 1
    if window < 2 * chunk or window % chunk:
        reader.refuse(
            "encoder_config.window_size", f"{window} is not two or more chunks of {chunk}"
        )
        window = 2 * chunk
    return {
        "causal": True,
        "replicate_padding": True,
        "gain": 1.0,
        "chunk_frames": chunk,
        "past_frames": window - chunk,
    }


def compression_shapes(reader: ShapeReader) -> tuple[FocalConfig, FocalConfig]:
    """The shapes of compressor and of decompressor; they are equal if nothing was refused."""
    encoder = reader.settings["encoder"]
    down, up = _focal_shape(reader, "compressor"), _focal_shape(reader, "decompressor")
    if down.causal:
        down = replace(down, chunk_frames=up.chunk_frames)
    keys = {
        "width": "output_dim",
        "latent": "input_dim",
        "hidden": "hidden_dims",
        "factors": "upscale_factors",
        "focal_window": "focal_window",
        "focal_levels": "focal_level",
        "focal_factor": "focal_factor",
        "causal": "causal",
        "past_frames": "window_size",
    }
    for name, key in keys.items():
        if getattr(down, name) != getattr(up, name):
            backward = name in ("hidden", "factors")
            value = list(getattr(up, name)[::-1]) if backward else getattr(up, name)
            reader.refuse(f"decompressor_config.{key}", f"{value} does not mirror the compressor's")
    if down.causal != encoder["causal"]:
        reader.refuse("compressor_config.causal", "is not the encoder's")
    if max(down.factors) > 2 or down.frames_per_token > 4:
        reader.refuse(
            "compressor_config.downscale_factors",
            f"{list(down.factors)} are over 2 in one layer, or over 4 in all",
        )
    if down.causal and down.frames_per_token > 1:
        reader.refuse("compressor_config.downscale_factors", "are over 1 in a causal codec")
    if down.causal:
        _check_chunks(reader, up)
    if down.latent > MOST_BITS:
        reader.refuse("compressor_config.output_dim", f"{down.latent} is over {MOST_BITS} bits")
    return down, up


def _check_chunks(reader: ShapeReader, up: FocalConfig) -> None:
    last = f"{_modulation('decompressor', len(up.hidden) - 1)}.layers.{up.focal_levels}.0.weight"
    window = reader.size(last, 2, up.past_frames)
    if window != up.past_frames:
        reader.refuse("decompressor_config.last_window_size", f"{window} differs from window_size")
    key, settings = "decompressor_config.lookahead_size", reader.settings["decompressor"]
    refined = any(name.startswith("decompressor.refiner.") for name in reader.shapes)
    if not refined and not settings["lookahead_size"]:
        reader.refuse(key, "is 0, and a causal decompressor here has a layer over chunks")
    elif up.chunk_frames != reader.settings["encoder"]["lookahead_size"] + 1:
        reader.refuse(key, f"{up.chunk_frames - 1} is not the encoder's")


def _modulation(module: str, layer: int) -> str:
    return f"{module}.layers.{layer}.focal_block.modulation"


def _focal_shape(reader: ShapeReader, module: str) -> FocalConfig:
    """One module's shape; that of the decompressor with hidden and factors as the compressor's."""
    settings, down = reader.settings[module], module == "compressor"
    factors = settings["downscale_factors" if down else "upscale_factors"]
    layers = max(1, reader.count(f"{module}.layers", len(factors)))
    scale = "downscale.downscale" if down else "upscale.upscale"
    scales = [f"{module}.layers.{i}.{scale}.weight" for i in range(layers)]
    # The compressor's widths are those after each layer, the decompressor's those before.
    hidden = reader.sizes(scales, 0, settings["hidden_dims"])
    factors = reader.sizes(scales, 2, factors)
    outside = (scales[0] if down else scales[-1]), 1
    projection = (f"{module}.{'out' if down else 'in'}_proj.weight", 0 if down else 1)
    causal = _is_causal(reader, module)
    levels, kernels = _kernels(reader, module, causal)
    width = reader.size(*outside, settings["input_dim" if down else "output_dim"])
    return FocalConfig(
        width=width,
        latent=reader.size(*projection, settings["output_dim" if down else "input_dim"]),
        hidden=tuple(hidden if down else hidden[::-1]),
        factors=tuple(factors if down else factors[::-1]),
        focal_window=kernels[0] if levels else settings["focal_window"],
        focal_levels=levels,
        focal_factor=kernels[1] - kernels[0] if levels > 1 else settings["focal_factor"],
        causal=causal,
        past_frames=kernels[levels] if causal else FocalConfig.past_frames,
        chunk_frames=_chunk_frames(reader, width) if causal else FocalConfig.chunk_frames,
    )


def _is_causal(reader: ShapeReader, module: str) -> bool:
    """By the norms: a causal block has scaled tanhs in place of layer norms."""
    norms = [name for name in reader.shapes if name.startswith(f"{module}.") and "_norm." in name]
    if not norms:
        return reader.settings[module]["causal"]
    return sum(name.endswith(".alpha") for name in norms) * 2 > len(norms)


def _kernels(reader: ShapeReader, module: str, causal: bool) -> tuple[int, list[int]]:
    """The number of levels, and the kernel of each; of a causal module also the window's."""
    settings, modulation = reader.settings[module], _modulation(module, 0)
    projection = f"{modulation}.in_proj.weight"
    width = reader.size(projection, 1, 0)
    levels = reader.size(projection, 0, 2 * width + 1 + settings["focal_level"]) - 2 * width - 1
    if not 0 <= levels <= MOST_LEVELS:
        levels = min(settings["focal_level"], MOST_LEVELS)
    names = [f"{modulation}.layers.{i}.0.weight" for i in range(levels)]
    first, step = settings["focal_window"], settings["focal_factor"]
    kernels = reader.sizes(names, 2, [first + step * i for i in range(levels)])
    if causal:
        window = settings["window_size"]
        kernels.append(reader.size(f"{modulation}.layers.{levels}.0.weight", 2, window))
    return levels, kernels


def _chunk_frames(reader: ShapeReader, width: int) -> int:
    """Of a causal decompressor, by its refiner; a compressor has the same."""
    chunk = reader.settings["decompressor"]["lookahead_size"] + 1
    inputs = reader.size("decompressor.refiner.in_proj.weight", 1, chunk * width)
    return max(1, inputs // width)


def vocoder_shape(reader: ShapeReader, name: str, width: int) -> VocoderConfig:
    """The vocoder's shape. name: of their class. width: of the features."""
    settings, backbone = reader.settings["decoder"], "decoder.backbone"
    embedding = f"{backbone}.embedding.weight"
    values: dict[str, Any] = {
        "width": reader.size(embedding, 1, settings["input_dim"]),
        "hidden": reader.size(embedding, 0, settings["dim"]),
        "layers": reader.count(f"{backbone}.layers", settings["num_layers"]),
        "feed_forward": reader.size(f"{backbone}.layers.0.pwconv1.weight", 0, settings["ffn_dim"]),
        "kernel": reader.size(embedding, 2, settings["kernel_size"]),
        "causal": settings["causal"],
        "margin": 0,
        "limiter": False,
    }
    if values["width"] != width:
        reader.refuse("decoder_config.input_dim", f"{values['width']} is not the features' {width}")
    if values["kernel"] % 2 == 0:
        reader.refuse("decoder_config.kernel_size", f"{values['kernel']} is even")
        values["kernel"] += 1
    head, hop = "decoder.head.proj.weight", settings["hop_length"]
    if name == "WaveNeXt":
        return VocoderConfig(**values, head="linear", samples_per_frame=reader.size(head, 0, hop))
    if settings["causal"]:
        reader.refuse("decoder_config.causal", "is true of a Vocos")
    if hop != SAMPLES_PER_FRAME:
        reader.refuse("decoder_config.hop_length", f"{hop} is not {SAMPLES_PER_FRAME}")
    n_fft = reader.size(head, 0, settings["n_fft"] + 2) - 2
    try:
        return VocoderConfig(**values, n_fft=n_fft)
    except ValueError as error:
        reader.refuse("decoder_config.n_fft:", str(error))
        return VocoderConfig(**values, n_fft=DEFAULTS["Vocos"]["n_fft"])
