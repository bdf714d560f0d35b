"""Read a WavLM's shape and weights from its folder, up to one layer.

A folder is `config.json` with `model.safetensors` (or shards of it) in Hugging Face's names, as
`WavLMModel.save_pretrained` writes it, or with the hub's older `pytorch_model.bin`. PyTorch's
`weights_only` reader takes only tensors from that: no other object in it is ever constructed.
"""

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenizer.config import EncoderConfig, EncoderError


def read_encoder(folder: Path, layer: int) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """A WavLM's shape and weights up to `layer`; weights above it are never read.

    folder: a local folder. Raises EncoderError when it is not a WavLM or has too few layers.
    """
    folder = Path(folder)
    values = _read_json(folder / "config.json")
    if values.get("model_type") != "wavlm":
        raise EncoderError(f"its config.json is of a {values.get('model_type')!r}, not a 'wavlm'")
    if (folder / "preprocessor_config.json").is_file():
        normalize = _read_json(folder / "preprocessor_config.json").get("do_normalize", True)
    else:
        # As in the published models: those with layer-norm convolutions want normalised input.
        normalize = values.get("feat_extract_norm") == "layer"
    config = EncoderConfig.from_dict({**values, "layer": layer, "normalize": normalize})
    weights = {}
    try:
        for name, tensor in _tensors(folder, lambda name: _wanted(name, layer)):
            # fp16 weights stay fp16, so that a tokenizer made of them is half as large.
            weights[_plain_name(name)] = tensor if tensor.dtype == torch.half else tensor.float()
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise EncoderError(f"its weights cannot be read: {error}") from error
    _merge_weight_norm(weights)
    check_weights(config, weights)
    return config, weights


def _read_json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EncoderError(f"it has no readable {path.name}") from error
    if not isinstance(values, dict):
        raise EncoderError(f"its {path.name} is not a JSON object")
    return values


def check_weights(config: EncoderConfig, weights: dict[str, Tensor]) -> None:
    """Raises EncoderError if a weight that the encoder uses is missing."""
    missing = [name for name in weight_names(config) if name not in weights]
    if missing:
        raise EncoderError(f"its weights lack {missing[0]}")


def weight_names(config: EncoderConfig) -> list[str]:
    """The weights of an encoder cut at config.layer, in Hugging Face's names."""

    def both(*modules: str) -> list[str]:
        return [f"{module}.{part}" for module in modules for part in ("weight", "bias")]

    names = both("feature_projection.layer_norm", "feature_projection.projection")
    names += both("encoder.pos_conv_embed.conv", "encoder.layer_norm")
    for i in range(len(config.conv_dim)):
        conv = f"feature_extractor.conv_layers.{i}."
        names += both(conv + "conv") if config.conv_bias else [conv + "conv.weight"]
        if config.feat_extract_norm == "layer" or i == 0:
            names += both(conv + "layer_norm")
    for i in range(config.layer):
        layer = f"encoder.layers.{i}."
        names += both(layer + "layer_norm", layer + "final_layer_norm")
        names += both(*(f"{layer}attention.{name}_proj" for name in ("q", "k", "v", "out")))
        names += both(layer + "attention.gru_rel_pos_linear")
        names.append(layer + "attention.gru_rel_pos_const")
        names += both(
            layer + "feed_forward.intermediate_dense", layer + "feed_forward.output_dense"
        )
    if config.layer:
        names.append("encoder.layers.0.attention.rel_attn_embed.weight")
    return names


def _plain_name(name: str) -> str:
    return name.removeprefix("wavlm.")


def _wanted(name: str, layer: int) -> bool:
    name = _plain_name(name)
    if name.startswith("encoder.layers."):
        number = int(name.split(".")[2])
        # Layer 0 holds the position bias table that every layer uses.
        return number < layer
    return name.startswith(("feature_extractor.", "feature_projection.", "encoder."))


def _tensors(folder: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the wanted weights."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                if wanted(name):
                    yield name, opened.get_tensor(name)
    if files:
        return
    file = folder / "pytorch_model.bin"
    if not file.is_file():
        raise EncoderError("it has neither model.safetensors nor pytorch_model.bin")
    # With mmap, weights above the layer are never read into memory. Files written before PyTorch
    # 1.6 are not zips and cannot be mapped.
    mapped = zipfile.is_zipfile(file)
    tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    for name, tensor in tensors.items():
        if wanted(name):
            yield name, tensor.clone()


def _merge_weight_norm(weights: dict[str, Tensor]) -> None:
    """Replace the positional convolution's weight norm (over all but the last axis) by a weight."""
    base = "encoder.pos_conv_embed.conv."
    for g, v in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if base + g in weights:
            if base + v not in weights:
                raise EncoderError(f"its weights lack {base + v}")
            scale, direction = weights.pop(base + g).float(), weights.pop(base + v).float()
            norm = direction.norm(dim=(0, 1), keepdim=True)
            weights[base + "weight"] = direction * (scale / norm)
