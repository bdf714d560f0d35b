"""FocalCodec's published weights → a tokenizer.

FocalCodec (arXiv 2502.04465) and FocalCodec-Stream (arXiv 2509.16195), in the names of v0.0.1 and
of v0.0.2. Everything that decides a token is taken over unchanged: raw input, binary spherical
codes, no centring. What their configuration can say and this project cannot hold is refused.
"""

import re

import torch
from torch import Tensor

from tokenizer.codec.quantizers import BinarySpherical
from tokenizer.errors import UsageError
from tokenizer.published.folding import GAMMA, fold_gammas, fold_modulator_mean, gamma_of
from tokenizer.published.names import (
    BIT_PLACES,
    OURS_VOCODER,
    UNUSED,
    TheirTensor,
    is_numbered,
    named,
    tensors,
)
from tokenizer.published.shapes import (
    ShapeReader,
    compression_shapes,
    encoder_shape,
    vocoder_shape,
)
from tokenizer.published.their_config import PARTS, class_names, settings_of
from tokenizer.storage.tokenizer_files import TokenizerFiles

MODULES = ("compressor", "decompressor")
# A norm that only a block with use_post_norm has.
POST_NORM = re.compile(r"(de)?compressor\..+\.modulation\.norm\..+")


def import_focalcodec(config: dict, weights: dict[str, Tensor], source: str) -> TokenizerFiles:
    """A tokenizer with a vocoder that gives a FocalCodec checkpoint's tokens and speech.

    config, weights: as `read_checkpoint` gives them. source: where they are from, for config.json.
    Raises UsageError, which lists every key that this project cannot hold, and every tensor that is
    missing, left over or of another shape.
    """
    problems: list[str] = []
    numbered = is_numbered(set(weights))
    names = class_names(config, numbered=numbered, problems=problems)
    problems += [f"{name} is empty" for name, weight in weights.items() if not weight.numel()]
    if problems:
        raise _refusal(problems, source)
    settings = {
        part: settings_of(part, names[part], config=config, problems=problems) for part in PARTS
    }
    shapes = {named(name): tuple(weight.shape) for name, weight in weights.items()}
    reader = ShapeReader(shapes, settings, problems)
    encoder, compression = encoder_shape(reader), compression_shapes(reader)
    codec, width = compression[0], encoder.hidden_size
    vocoder = vocoder_shape(reader, names["decoder"], width)
    if codec.width != width:
        reader.refuse("compressor_config.input_dim", f"{codec.width} is not the encoder's {width}")
    _check_codebook(reader, config.get("quantizer_config"), codec.latent)
    _check_norms(reader)
    wanted = tensors(encoder, compression, vocoder, numbered=numbered)
    wanted += _gammas(reader, wanted)
    problems += _wrong_tensors(wanted, weights, codec.latent)
    if problems:
        raise _refusal(problems, source)
    ours = _renamed(wanted, _folded(reader, weights))
    files = {k: v for k, v in ours.items() if not k.startswith(OURS_VOCODER)}
    files["codebook.codes"] = BinarySpherical(codec.latent).codes
    files |= {"features.mean": torch.zeros(width), "features.scale": torch.ones(())}
    return TokenizerFiles(
        encoder,
        "cosine",
        files,
        made_by={"method": "imported", "from": source, "config": config},
        compressor=codec,
        vocoder=vocoder,
        vocoder_weights={
            k.removeprefix(OURS_VOCODER): v for k, v in ours.items() if k.startswith(OURS_VOCODER)
        },
    )


def _refusal(problems: list[str], source: str) -> UsageError:
    remedy = "give the folder of a FocalCodec checkpoint of a supported shape"
    return UsageError("; ".join(problems), remedy, value=source)


def _check_codebook(reader: ShapeReader, given: object, bits: int) -> None:
    """The default of a missing size differs between releases; the shapes then say it."""
    size = given.get("codebook_size") if isinstance(given, dict) else None
    if size is not None and size != 1 << bits:
        why = f"{size} is not 2 to the power of the compressor's {bits} outputs"
        reader.refuse("quantizer_config.codebook_size", why)


def _check_norms(reader: ShapeReader) -> None:
    for module in MODULES:
        found = any(POST_NORM.match(name) and name.startswith(module) for name in reader.shapes)
        if reader.settings[module]["use_post_norm"] or found:
            reader.refuse(f"{module}_config.use_post_norm", "is true")


def _gammas(reader: ShapeReader, wanted: list[TheirTensor]) -> list[TheirTensor]:
    """The factors on what blocks add to the residual, where the checkpoint has them."""
    found = []
    for module in MODULES:
        there = any(GAMMA.fullmatch(name) and name.startswith(module) for name in reader.shapes)
        if there or reader.settings[module]["use_layerscale"]:
            for tensor in wanted:
                gamma = gamma_of(tensor.name)
                if gamma and tensor.name.startswith(module):
                    found.append(TheirTensor(gamma, tensor.shape, ()))
    return found


def _wrong_tensors(wanted: list[TheirTensor], weights: dict[str, Tensor], bits: int) -> list[str]:
    """What is wrong with the tensors, a list of each kind."""
    expected = {tensor.name: tensor.shape for tensor in wanted}
    missing = [name for name in expected if name not in weights]
    extra = [
        name
        for name in weights
        if name not in expected and name not in (*UNUSED, BIT_PLACES) and not POST_NORM.match(name)
    ]
    misshapen = [
        f"{name} {list(weights[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    no_numbers = [
        f"{name} of {weights[name].dtype}"
        for name in expected
        if name in weights and not weights[name].is_floating_point()
    ]
    places = weights.get(BIT_PLACES)
    if places is not None and places.tolist() != [1 << i for i in reversed(range(bits))]:
        no_numbers.append(f"{BIT_PLACES}, which are not the powers of 2 from {1 << bits - 1} on")
    kinds = {
        "tensors missing": missing,
        "tensors unknown": extra,
        "tensors of another shape": misshapen,
        "tensors of other values": no_numbers,
    }
    return [f"{kind}: {', '.join(found)}" for kind, found in kinds.items() if found]


def _folded(reader: ShapeReader, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in fp32, with factors that ours lack multiplied into a neighbour's weights."""
    weights = {name: weight.float() for name, weight in weights.items()}
    fold_gammas(weights)
    for module in MODULES:
        if reader.settings[module]["normalize_modulator"]:
            fold_modulator_mean(weights, module)
    return weights


def _renamed(wanted: list[TheirTensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors → ours, each in memory of its own."""
    ours: dict[str, Tensor] = {}
    for tensor in wanted:
        if tensor.ours:
            parts = weights[tensor.name].chunk(len(tensor.ours))
            ours |= {name: part.clone() for name, part in zip(tensor.ours, parts, strict=True)}
    return ours
