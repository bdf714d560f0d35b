"""WavSLM checkpoints as language models of this project, and the way back (arXiv 2603.05299).

The layers and the head have one name there and here. Their window holds a position's own chunk, and
ours only what is before it. Their model reads decompressed features as they are, has no START, and
keeps no inputs: those are its codec's.
"""

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lm.config import LMConfig, LMError
from lm.model import SpeechLM
from tokenizer.storage.tokenizer_files import TokenizerFiles

# The configuration of v0.0.1, whose values stand for keys that a config.json lacks.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 4096,
    "num_layers": 18,
    "dim": 1024,
    "ffn_dim": 4096,
    "num_heads": 16,
    "num_buckets": 320,
    "max_distance": 800,
    "max_cached_steps": 2048,
    "dropout": 0.0,
    "causal": True,
    "window_size": 512,
    "lookahead_size": 3,
    "use_flex_attention": False,
    "codec_config": "lucadellalib/focalcodec_50hz_4k_causal",
    "toks_per_step": 4,
}
# Their names of LMConfig's fields that have one meaning there and here.
FIELDS = {
    "vocab_size": "codebook_size",
    "num_layers": "layers",
    "dim": "width",
    "ffn_dim": "feed_forward",
    "num_heads": "heads",
    "num_buckets": "num_buckets",
    "max_distance": "max_bucket_distance",
    "dropout": "dropout",
}
# Where a shape shows the value of a key: the tensor and its axis.
SHOWN_BY = {
    "vocab_size": ("head.weight", 0),
    "dim": ("head.weight", 1),
    "ffn_dim": ("encoder.layers.0.feed_forward.in_proj.weight", 0),
    "num_heads": ("encoder.relative_embedding.weight", 1),
    "num_buckets": ("encoder.relative_embedding.weight", 0),
}
WHOLE = tuple(key for key, value in DEFAULTS.items() if type(value) is int)
LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
# Of layer norms; theirs cannot have another.
LAYER_NORM_EPS = 1e-5


def import_wavslm(
    config: dict, weights: dict[str, Tensor], tokenizer: TokenizerFiles, source: str
) -> SpeechLM:
    """The model of a checkpoint, in evaluation mode and fp32, with its tokenizer's files.

    config: of its config.json. tokenizer: its codec, imported. source: where the checkpoint came
    from, for the error. Raises LMError that lists all keys, or all tensors, that do not fit, and
    for a tokenizer with another codebook, another width or no causal decompressor of single frames.
    """
    values = _known(config, weights, source)
    shape = LMConfig(
        **{ours: values[theirs] for theirs, ours in FIELDS.items()},
        chunk=values["toks_per_step"],
        window=values["window_size"] - values["toks_per_step"],
        inputs="decompressor",
        layer_norm_eps=LAYER_NORM_EPS,
        start=False,
    )
    _check_tensors(shape, weights, source)
    _check_codec(shape, tokenizer)
    model = SpeechLM.from_tokenizer(shape, tokenizer)
    model.inputs.leave_untouched()
    model.load_state_dict(weights, strict=False)
    model.tokenizer_files = tokenizer
    return model.eval()


def export_wavslm(model: SpeechLM, codec_config: str) -> tuple[dict, dict[str, Tensor]]:
    """(config.json, weights) of a model in their layout.

    codec_config: the hub id or the path of its codec's config, from where their loader gets it.
    Raises LMError that lists all that theirs cannot hold.
    """
    config = model.config
    problems = _not_theirs(model)
    if problems:
        raise LMError(f"WavSLM's layout cannot hold it: {'; '.join(problems)}")
    values = DEFAULTS | {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
    window = config.window + config.chunk
    values |= {
        "max_cached_steps": max(DEFAULTS["max_cached_steps"], window),
        "window_size": window,
        "lookahead_size": config.chunk - 1,
        "toks_per_step": config.chunk,
        "codec_config": codec_config,
    }
    weights = {
        name: weight.detach().float().cpu().contiguous()
        for name, weight in model.state_dict().items()
        if not name.startswith("inputs.")
    }
    return values, weights


def _known(config: dict, weights: dict[str, Tensor], source: str) -> dict[str, Any]:
    """All values of a configuration: its own, those that shapes show, and defaults."""
    unknown = sorted(str(key) for key in config.keys() - DEFAULTS.keys())
    problems = [f"{key} is no key of a WavSLM" for key in unknown]
    shown = {
        key: weights[name].shape[axis]
        for key, (name, axis) in SHOWN_BY.items()
        if name in weights and weights[name].ndim == 2
    }
    layers = {found[1] for name in weights if (found := LAYER.match(name))}
    values = {**DEFAULTS, "num_layers": len(layers), **shown, **config}
    for key in WHOLE:
        if type(values[key]) is not int or values[key] < 0:
            problems.append(f"{key} is {values[key]!r}, which is no whole number")
    if not isinstance(values["dropout"], int | float) or not 0 <= values["dropout"] < 1:
        problems.append(f"dropout is {values['dropout']!r}, which is not from 0 to 1")
    if values["causal"] is not True:
        problems.append("causal is not true")
    if not problems:
        chunk = values["toks_per_step"]
        if chunk != values["lookahead_size"] + 1:
            ahead = values["lookahead_size"]
            problems.append(f"toks_per_step is {chunk}, not one more than lookahead_size {ahead}")
        if values["window_size"] <= chunk:
            problems.append(f"window_size is {values['window_size']}, and a chunk {chunk}")
        if values["num_layers"] > max(1, len(weights)):
            problems.append(f"num_layers is {values['num_layers']}, and it has {len(layers)}")
    if problems:
        raise LMError(f"its config.json does not fit: {'; '.join(problems)}", value=source)
    return values


def _check_tensors(shape: LMConfig, weights: dict[str, Tensor], source: str) -> None:
    """Raises LMError that lists all tensors that are missing, too many or of another shape."""
    with torch.device("meta"):
        model = SpeechLM(replace(shape, inputs="embedding"))
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.startswith("inputs.")}
    problems = [f"{name} is missing" for name in wanted.keys() - weights.keys()]
    problems += [f"{name} is none of a WavSLM's" for name in weights.keys() - wanted.keys()]
    for name in wanted.keys() & weights.keys():
        if weights[name].shape != wanted[name]:
            given = tuple(weights[name].shape)
            problems.append(f"{name} is {given}, not {tuple(wanted[name])}")
        elif not weights[name].is_floating_point():
            problems.append(f"{name} is of {weights[name].dtype}")
    if problems:
        raise LMError(f"its weights do not fit: {'; '.join(sorted(problems))}", value=source)


def _check_codec(shape: LMConfig, tokenizer: TokenizerFiles) -> None:
    """Raises LMError unless a tokenizer can be a model's codec."""
    codec, problems = tokenizer.compressor, []
    if tokenizer.codebook_size != shape.codebook_size:
        problems.append(f"it has {tokenizer.codebook_size} codes, the model {shape.codebook_size}")
    if codec is None or not codec.causal:
        problems.append("it has no causal decompressor")
    elif codec.frames_per_token > 1:
        problems.append(f"its tokens stand for {codec.frames_per_token} frames")
    if tokenizer.codebook_size and tokenizer.width != shape.width:
        problems.append(
            f"its features have {tokenizer.width} dimensions, the model's {shape.width}"
        )
    if problems:
        raise LMError("; ".join(problems), "give the codec of this model", argument="tokenizer")


def _not_theirs(model: SpeechLM) -> list[str]:
    """What of a model theirs cannot hold, a phrase each."""
    config, inputs = model.config, model.inputs
    problems = []
    if config.start:
        problems.append("its utterances begin with START")
    if config.layer_norm_eps != LAYER_NORM_EPS:
        problems.append(f"its layer_norm_eps is {config.layer_norm_eps:g}, not {LAYER_NORM_EPS:g}")
    if config.frames_per_token > 1:
        problems.append(f"its tokens stand for {config.frames_per_token} frames")
    if config.inputs != "decompressor":
        return [*problems, f"its inputs are {config.inputs!r}, not 'decompressor'"]
    if inputs.in_proj is not None:
        problems.append(
            f"its inputs go from {config.input_width} to {config.width} dimensions (in_proj)"
        )
    if inputs.shift.any() or (inputs.scale != 1).any():
        problems.append("its inputs are standardised")
    files = model.tokenizer_files
    if files is None:
        problems.append("it came without its tokenizer")
    elif not _inputs_of(files, model):
        problems.append("its decompressor is not its tokenizer's")
    return problems


def _inputs_of(files: TokenizerFiles, model: SpeechLM) -> bool:
    """Whether a model's frozen inputs are those of a tokenizer."""
    names = {"table": "codebook.codes", "mean": "features.mean", "feature_scale": "features.scale"}
    for name, value in model.inputs.state_dict().items():
        if name in ("shift", "scale"):
            continue
        given = files.weights.get(names.get(name, name))
        if given is None or not torch.equal(value.float().cpu(), given.float()):
            return False
    return True
