"""What shapes a WavLM has, and how its weights are read from a folder, up to one layer.

A folder is `config.json` with `model.safetensors` (or shards of it) in Hugging Face's names, as
`WavLMModel.save_pretrained` writes it, or with the hub's older `pytorch_model.bin`. Of that only
tensors are read, by PyTorch's `weights_only` reader: no object in it is ever constructed.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from tokenizer.audio import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME


class EncoderError(ValueError):
    """A folder that is not a WavLM this project can run; the message says what is wrong."""


@dataclass
class WavLMConfig:
    """A WavLM's shape, in Hugging Face's names and with its defaults (wavlm-base's).

    layer: the transformer layer whose output is the feature; nothing above it is kept.
    normalize: zero mean and unit variance for each utterance, as the preprocessor file says.
    """

    layer: int = 6
    normalize: bool = False
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: list[int] = field(default_factory=lambda: [512] * 7)
    conv_kernel: list[int] = field(default_factory=lambda: [10, 3, 3, 3, 3, 2, 2])
    conv_stride: list[int] = field(default_factory=lambda: [5, 2, 2, 2, 2, 2, 2])
    conv_bias: bool = False
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    hidden_act: str = "gelu"
    do_stable_layer_norm: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    max_bucket_distance: int = 800
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        hop, receptive = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride):
            receptive += (kernel - 1) * hop
            hop *= stride
        if (hop, receptive) != (SAMPLES_PER_FRAME, RECEPTIVE_FIELD):
            raise EncoderError(
                f"its convolutions take {receptive} samples every {hop}; WavLM takes 400 every 320"
            )
        if (self.hidden_act, self.feat_extract_activation) != ("gelu", "gelu"):
            raise EncoderError("it uses another activation than gelu")
        if not 0 <= self.layer <= self.num_hidden_layers:
            raise EncoderError(
                f"layer {self.layer} is asked of an encoder with {self.num_hidden_layers} layers"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: dict) -> "WavLMConfig":
        """Take the fields that decide a feature from a larger dictionary; leave the rest."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})

    def to_dict(self) -> dict:
        """Every field, for a config.json that needs no defaults."""
        return asdict(self)

    def flops_per_second(self, utterance_seconds: float) -> float:
        """Multiply-adds times two for a second of audio, in utterances of this many seconds.

        Counts convolutions, projections, attention products and feed-forward of the layers used.
        """
        frames = utterance_seconds * SAMPLE_RATE / SAMPLES_PER_FRAME
        rate, channels, total = SAMPLE_RATE, 1, 0.0
        for out, kernel, stride in zip(self.conv_dim, self.conv_kernel, self.conv_stride):
            rate /= stride
            total += rate * channels * out * kernel
            channels = out
        width, per_second = self.hidden_size, SAMPLE_RATE / SAMPLES_PER_FRAME
        total += per_second * channels * width
        kernel, groups = self.num_conv_pos_embeddings, self.num_conv_pos_embedding_groups
        total += per_second * width * (width // groups) * kernel
        layer = 4 * width * width + 2 * width * self.intermediate_size + 2 * frames * width
        return 2 * (total + per_second * self.layer * layer)


def read_encoder(folder: Path, layer: int) -> tuple[WavLMConfig, dict[str, Tensor]]:
    """A WavLM's shape and weights up to `layer`; weights above it are never read.

    folder: a local folder. Raises EncoderError when it is not a WavLM or has too few layers.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise EncoderError("it has no config.json")
    values = json.loads((folder / "config.json").read_text())
    if values.get("model_type") != "wavlm":
        raise EncoderError(f"its config.json is of a {values.get('model_type')!r}, not a 'wavlm'")
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        normalize = json.loads(preprocessor.read_text()).get("do_normalize", True)
    else:
        # The published models' own rule: normalised input goes with layer-norm convolutions.
        normalize = values.get("feat_extract_norm") == "layer"
    config = WavLMConfig.from_dict({**values, "layer": layer, "normalize": normalize})
    weights = {}
    for name, tensor in _tensors(folder, lambda name: _wanted(name, layer)):
        weights[_plain_name(name)] = tensor
    _merge_weight_norm(weights)
    missing = [name for name in _required(config) if name not in weights]
    if missing:
        raise EncoderError(f"its weights lack {missing[0]}")
    return config, weights


def _plain_name(name: str) -> str:
    return name.removeprefix("wavlm.")


def _wanted(name: str, layer: int) -> bool:
    name = _plain_name(name)
    if name.startswith("encoder.layers."):
        number = int(name.split(".")[2])
        # Layer 0 holds the position bias table that every layer uses.
        return number < layer
    return name.startswith(("feature_extractor.", "feature_projection.", "encoder."))


def _required(config: WavLMConfig) -> list[str]:
    names = [f"feature_extractor.conv_layers.{i}.conv.weight" for i in range(len(config.conv_dim))]
    names += ["feature_projection.projection.weight", "encoder.pos_conv_embed.conv.weight"]
    names += [f"encoder.layers.{i}.attention.q_proj.weight" for i in range(config.layer)]
    return names


def _tensors(folder: Path, wanted):
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                if wanted(name):
                    yield name, opened.get_tensor(name).float()
    if files:
        return
    file = folder / "pytorch_model.bin"
    if not file.is_file():
        raise EncoderError("it has neither model.safetensors nor pytorch_model.bin")
    # mmap: what lies above the layer is never brought into memory.
    for name, tensor in torch.load(file, map_location="cpu", weights_only=True, mmap=True).items():
        if wanted(name):
            yield name, tensor.float().clone()


def _merge_weight_norm(weights: dict[str, Tensor]) -> None:
    """Fold the positional convolution's weight norm (over all but the last axis) into a weight."""
    base = "encoder.pos_conv_embed.conv."
    for g, v in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if base + g in weights:
            scale, direction = weights.pop(base + g), weights.pop(base + v)
            norm = direction.norm(dim=(0, 1), keepdim=True)
            weights[base + "weight"] = direction * (scale / norm)
