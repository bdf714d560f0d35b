"""Read a WavLM's shape and weights from its folder, up to one layer.

A folder is `config.json` with `model.safetensors` (or shards of it) in Hugging Face's names, as
`WavLMModel.save_pretrained` writes it, or with the hub's older `pytorch_model.bin`. HuBERT and
wav2vec 2.0 have the same names and no position bias: their folders are read too. PyTorch's
`weights_only` reader takes only tensors from that: no other object in it is ever constructed.
"""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenizer.config import EncoderConfig, EncoderError
from tokenizer.storage.json_file import read_object

# Whether a layer has WavLM's gated position bias, by the kind of encoder.
KINDS = {"wavlm": True, "hubert": False, "wav2vec2": False}
# Settings of transformers that add parts which no encoder here has.
UNKNOWN_PARTS = ("adapter_attn_dim", "conv_pos_batch_norm")


def read_encoder(folder: Path, layer: int) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """The shape and weights of a WavLM, HuBERT or wav2vec 2.0 up to `layer`.

    Weights above the layer are never read. folder: a local folder. Raises EncoderError when it is
    of another kind, has parts that are not known here, or has too few layers.
    """
    folder = Path(folder)
    values = read_object(folder / "config.json", EncoderError)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EncoderError(f"its config.json is of a {kind!r}, not a 'wavlm', 'hubert', 'wav2vec2'")
    for name in UNKNOWN_PARTS:
        if values.get(name):
            raise EncoderError(f"its config.json has {name}, a part that is not known here")
    if kind != "hubert":
        # The only kind where transformers knows this setting.
        values.pop("feat_proj_layer_norm", None)
    if (folder / "preprocessor_config.json").is_file():
        preprocessor = read_object(folder / "preprocessor_config.json", EncoderError)
        normalize = preprocessor.get("do_normalize", True)
    else:
        # As in the published models: those with layer-norm convolutions want normalised input.
        normalize = values.get("feat_extract_norm") == "layer"
    config = EncoderConfig.from_dict(
        {**values, "layer": layer, "normalize": normalize, "position_bias": KINDS[kind]}
    )
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


def check_weights(config: EncoderConfig, weights: dict[str, Tensor]) -> None:
    """Raises EncoderError if a weight that the encoder uses is missing."""
    # Of a pre-norm encoder this norm is above all layers.
    unused = "encoder.layer_norm." if config.do_stable_layer_norm else ()
    missing = [n for n in weight_names(config) if n not in weights and not n.startswith(unused)]
    if missing:
        raise EncoderError(f"its weights lack {missing[0]}")


def weight_names(config: EncoderConfig) -> list[str]:
    """The weights of an encoder cut at config.layer, in Hugging Face's names."""

    def both(*modules: str) -> list[str]:
        return [f"{module}.{part}" for module in modules for part in ("weight", "bias")]

    names = both("feature_projection.layer_norm") if config.feat_proj_layer_norm else []
    names += both("feature_projection.projection")
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
        if config.position_bias:
            names += both(layer + "attention.gru_rel_pos_linear")
            names.append(layer + "attention.gru_rel_pos_const")
        names += both(
            layer + "feed_forward.intermediate_dense", layer + "feed_forward.output_dense"
        )
    if config.layer and config.position_bias:
        names.append("encoder.layers.0.attention.rel_attn_embed.weight")
    return names


def _plain_name(name: str) -> str:
    for kind in KINDS:
        name = name.removeprefix(f"{kind}.")
    return name


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
    # Mapped, so weights above the layer are never read into memory.
    for name, tensor in read_pt(file).items():
        if wanted(name):
            yield name, tensor.clone()


def read_pt(file: Path) -> Any:
    """The tensors of a file that torch.save wrote, on the CPU; no other object is constructed.

    Passes on what PyTorch raises: pickle.UnpicklingError where the file holds more than tensors.
    """
    # Files written before PyTorch 1.6 are not zips and cannot be mapped.
    mapped = zipfile.is_zipfile(file)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)


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
