"""What shapes a WavLM has, and how its weights are read from a folder, up to one layer.

A folder is `config.json` with `model.safetensors` (or shards of it) in Hugging Face's names, as
`WavLMModel.save_pretrained` writes it, or with the hub's older `pytorch_model.bin`. Of that only
tensors are read, by PyTorch's `weights_only` reader: no object in it is ever constructed.
"""

import json
import pickle
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLE_RATE, SAMPLES_PER_FRAME
from tokenizer.errors import UsageError

# Of WavLMConfig, what is written for a causal encoder alone: other folders stay as they were.
CAUSAL_FIELDS = ("causal", "chunk_frames", "past_frames", "gain")


class EncoderError(UsageError):
    """A folder that is not a WavLM this project can run; the message says what is wrong."""


@dataclass
class WavLMConfig:
    """A WavLM's shape, in Hugging Face's names and with its defaults (wavlm-base's).

    layer: the transformer layer whose output is the feature; nothing above it is kept.
    normalize: zero mean and unit variance for each utterance, as the preprocessor file says.
    causal: a frame sees its own chunk of chunk_frames, and past_frames before its chunk's first.
    gain: the causal encoder's input is the waveform times this, since a stream has no variance to
    divide by: 20 gives speech at the nominal level (-26 dBov, ITU-T P.56) unit variance, and layer
    norm after the first convolution takes out most of what a level differs from that.
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
    causal: bool = False
    chunk_frames: int = 4
    past_frames: int = 512
    gain: float = 20.0

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
        if self.causal and (self.feat_extract_norm != "layer" or self.normalize):
            raise EncoderError("it normalises over whole utterances, and so cannot be causal")
        if self.causal and not 0 < self.chunk_frames <= self.past_frames:
            raise EncoderError("a causal encoder's past_frames must hold a chunk")
        if self.causal and self.past_frames % self.chunk_frames:
            raise EncoderError("a causal encoder's past_frames must be whole chunks")

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
        """Every field that says something, for a config.json that needs no defaults."""
        values = asdict(self)
        return values if self.causal else {k: values[k] for k in values if k not in CAUSAL_FIELDS}

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
    values = _read_json(folder / "config.json")
    if values.get("model_type") != "wavlm":
        raise EncoderError(f"its config.json is of a {values.get('model_type')!r}, not a 'wavlm'")
    if (folder / "preprocessor_config.json").is_file():
        normalize = _read_json(folder / "preprocessor_config.json").get("do_normalize", True)
    else:
        # The published models' own rule: normalised input goes with layer-norm convolutions.
        normalize = values.get("feat_extract_norm") == "layer"
    config = WavLMConfig.from_dict({**values, "layer": layer, "normalize": normalize})
    weights = {}
    try:
        for name, tensor in _tensors(folder, lambda name: _wanted(name, layer)):
            # What is stored in half precision stays so: a tokenizer of it is then half as large.
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


def check_weights(config: WavLMConfig, weights: dict[str, Tensor]) -> None:
    """Raises EncoderError unless every weight that the encoder uses is there."""
    missing = [name for name in weight_names(config) if name not in weights]
    if missing:
        raise EncoderError(f"its weights lack {missing[0]}")


def weight_names(config: WavLMConfig) -> list[str]:
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


def _tensors(folder: Path, wanted):
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
    # mmap: what lies above the layer is never brought into memory.
    # Files of before PyTorch 1.6 are no zip, and cannot be mapped.
    mapped = zipfile.is_zipfile(file)
    tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    for name, tensor in tensors.items():
        if wanted(name):
            yield name, tensor.clone()


def _merge_weight_norm(weights: dict[str, Tensor]) -> None:
    """Fold the positional convolution's weight norm (over all but the last axis) into a weight."""
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
