"""The code of FocalCodec and WavSLM's authors, run for comparison by jobs/bench/published.py.

It is imported from copies of github.com/lucadellalib/focalcodec and github.com/lucadellalib/wavslm;
nothing else of the project needs it.
"""

import contextlib
import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.errors import UsageError

# "autocast" is PyTorch's, around fp32 weights; "bf16" converts the weights.
PRECISIONS = ("fp32", "autocast", "bf16")
CAUSAL = {"causal": True}
ENCODER = {"encoder_config": {"causal": False}}
FOCAL = {"focal_window": 7, "focal_factor": 2, "causal": False}
# Arguments of their classes, which have defaults for the rest.
CODECS: dict[str, dict[str, Any]] = {
    "focalcodec_50hz": {
        "encoder_name": "WavLM",
        "encoder_config": {"causal": False},
        "compressor_name": "FocalEncoder",
        "compressor_config": {"output_dim": 13, "hidden_dims": [1024, 512, 256], **FOCAL},
        "quantizer_name": "BinarySphericalQuantizer",
        "quantizer_config": {"codebook_size": 8192},
        "decompressor_name": "FocalDecoder",
        "decompressor_config": {"input_dim": 13, "hidden_dims": [256, 512, 1024], **FOCAL},
        "decoder_name": "Vocos",
        "decoder_config": {"causal": False},
    },
    "focalcodec_50hz_4k_causal": {
        "encoder_name": "WavLM",
        "encoder_config": CAUSAL,
        "compressor_name": "FocalEncoder",
        "compressor_config": {"output_dim": 12, "hidden_dims": [1024] * 3, **CAUSAL},
        "quantizer_name": "BinarySphericalQuantizer",
        "quantizer_config": {"codebook_size": 4096},
        "decompressor_name": "FocalDecoder",
        "decompressor_config": {"input_dim": 12, "hidden_dims": [1024] * 3, **CAUSAL},
        "decoder_name": "WaveNeXt",
        "decoder_config": CAUSAL,
    },
}
LM = "wavslm_4k"
LM_CONFIG = {"vocab_size": 4096, "codec_config": "lucadellalib/focalcodec_50hz_4k_causal"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What both sides load. config, weights: in the authors' layout."""

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]

    @property
    def codec(self) -> str | None:
        """The name of a language model's codec; None for a codec."""
        return self.config["codec_config"].split("/")[-1] if "codec_config" in self.config else None


class Authors:
    """Their two modules."""

    def __init__(self, focalcodec: str, wavslm: str | None) -> None:
        """focalcodec, wavslm: folders with a copy of each. Raises UsageError for any other folder.

        Without `wavslm` there is no language model.
        """
        self.codec_class = _class("FocalCodec", "focalcodec.codec", folder=focalcodec)
        self.lm_class = _class("WavSLM", "wavslm", folder=wavslm) if wavslm else None

    def random_checkpoints(self) -> list[Checkpoint]:
        """Random weights: a codec that hears whole utterances, a causal one, a language model."""
        torch.manual_seed(0)
        models = {name: (self.codec_class(**config), config) for name, config in CODECS.items()}
        if self.lm_class:
            models[LM] = self._new_lm(LM_CONFIG, torch.nn.Identity()), LM_CONFIG
        return [
            Checkpoint(name=name, config=config, weights=model.state_dict())
            for name, (model, config) in models.items()
        ]

    def codec(self, checkpoint: Checkpoint) -> Any:
        """Their FocalCodec."""
        model = self.codec_class(**checkpoint.config)
        names = list(model.state_dict())
        model.load_state_dict(self.codec_class._remap_state_dict(checkpoint.weights, names))
        return model.eval()

    def lm(self, checkpoint: Checkpoint, codec: Any) -> Any:
        """Their WavSLM on their codec."""
        model = self._new_lm(checkpoint.config, torch.nn.Identity())
        model.load_state_dict(checkpoint.weights)
        model.codec = codec
        return model.eval()

    def _new_lm(self, config: dict[str, Any], codec: torch.nn.Module) -> Any:
        """Their constructor downloads the codec: here it gets one."""
        original, torch.hub.load = torch.hub.load, lambda *_, **__: codec
        try:
            assert self.lm_class
            return self.lm_class(**config)
        finally:
            torch.hub.load = original


def _class(name: str, module: str, folder: str) -> Any:
    """A class of a copy of their repository, which has its name in small letters."""
    path, repository = str(Path(folder).resolve()), name.lower()
    sys.path.insert(0, path)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        remedy = f"give a copy of github.com/lucadellalib/{repository}"
        problem = f"it has no {module}.{name} ({error})"
        raise UsageError(problem, remedy, value=folder, argument=repository) from None
    finally:
        sys.path.remove(path)


def in_precision(model: Any, precision: str) -> Any:
    """The model itself, or a copy with bf16 weights."""
    return copy.deepcopy(model).to(torch.bfloat16) if precision == "bf16" else model


def computing(precision: str) -> contextlib.AbstractContextManager:
    """The context that a call in this precision needs."""
    if precision == "autocast":
        return torch.autocast("cpu", torch.bfloat16)
    return contextlib.nullcontext()


def encode(codec: Any, waves: list[np.ndarray], precision: str, padded: bool) -> None:
    """Tokens of all utterances: one by one, or padded to one batch."""
    parts = [torch.from_numpy(wave).to(_dtype(codec)) for wave in waves]
    with computing(precision):
        if not padded:
            for wave in parts:
                codec.sig_to_toks(wave[None])
            return
        lengths = torch.tensor([len(wave) for wave in parts])
        batch = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        codec.sig_to_toks(batch, length=lengths / lengths.max())


def decode(codec: Any, tokens: list[np.ndarray]) -> None:
    """Speech of all utterances, one by one in fp32."""
    for row in tokens:
        codec.toks_to_sig(torch.from_numpy(row.astype(np.int64))[None])


def stream(codec: Any, wave: np.ndarray, precision: str, before: int) -> Callable[[], None]:
    """A function that encodes the next chunk of a stream after `before` samples."""
    sound, size = torch.from_numpy(wave).to(_dtype(codec)), codec.chunk_size
    with computing(precision):
        _, *states = codec.sig_to_toks(sound[None, :before], return_state=True)
    chunks = _cycle(sound[before:].split(size), size)

    def next_chunk() -> None:
        with computing(precision):
            _, *states[:] = codec.sig_to_toks(next(chunks)[None], *states, return_state=True)

    return next_chunk


def generation(
    lm: Any, prompts: Tensor, precision: str, table: Tensor | None = None
) -> Callable[[], None]:
    """A function that generates the next chunk of every row, as their own loop does.

    prompts: (B, T) tokens. table: (K, D) vectors of tokens; None decompresses them.
    """
    size = lm.toks_per_step
    embedded: list[Any] = []
    cached: list[Any] = []
    table = table if table is None else table.to(_dtype(lm))

    def embed(tokens: Tensor) -> Tensor:
        if table is not None:
            return table[tokens]
        vectors, *embedded[:] = lm.codec.toks_to_qfeats(tokens, *embedded, return_state=True)
        return vectors

    def step(vectors: Tensor) -> Tensor:
        logits, *cached[:] = lm(vectors, *cached)
        # Their defaults: temperature 0.8, top-p 0.3.
        chances = (logits[:, -size:].flatten(end_dim=1).float() / 0.8).softmax(-1)
        return lm._sample_top_p(chances, 0.3).unflatten(0, (len(prompts), size))

    with computing(precision):
        latest = [step(embed(prompts))]

    def next_chunk() -> None:
        with computing(precision):
            latest[0] = step(embed(latest[0]))

    return next_chunk


def _dtype(model: Any) -> torch.dtype:
    return next(model.parameters()).dtype


def _cycle(chunks: tuple[Tensor, ...], size: int) -> Iterator[Tensor]:
    """The whole chunks, again and again."""
    while True:
        yield from (chunk for chunk in chunks if len(chunk) == size)


def seconds_of(waves: list[np.ndarray]) -> float:
    """Of audio, together."""
    return sum(map(len, waves)) / SAMPLE_RATE
