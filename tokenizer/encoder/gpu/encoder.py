"""The forward pass of WavLM, causal or not, over a packed pass; see functions.py.

It takes the weights of a WavLM that lies on the device, and gives that WavLM's features to
rounding.
"""

import functools
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from math import lcm
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenizer.audio.frames import SAMPLES_PER_FRAME
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.encoder.gpu.functions import (
    Convolution,
    Front,
    LayerWeights,
    PassPlaces,
    Positions,
    Shape,
    front,
    layer,
    positions,
    window_weight,
)
from tokenizer.encoder.gpu.layout import ALIGNMENT, ROWS, TAIL, Packed
from tokenizer.encoder.linear import InferenceLinear
from tokenizer.encoder.relative_position import bias_by_distance
from tokenizer.encoder.wavlm import WavLM
from tokenizer.encoder.wavlm_layer import TransformerLayer

# More than there are ROWS, for each of a few encoders in one process. At its own limit of 8
# PyTorch would stop compiling, and FlexAttention would then hold every score in memory.
RECOMPILE_LIMIT = 8 * len(ROWS)


class PackedWavLM:
    """A WavLM's forward pass over packed rows.

    chunk, window: of the chunk-causal mask, 0 of a bidirectional encoder. alignment: rows of which
    an utterance takes a multiple.
    """

    def __init__(self, encoder: WavLM, compiled: bool = True) -> None:
        """encoder: on the device of use, and not one of a CPU, whose weights are laid out anew.

        compiled: False runs plain PyTorch, with all scores in memory: for tests.
        """
        self.compiled, config = compiled, encoder.config
        causal = isinstance(encoder, CausalWavLM)
        self.chunk = config.chunk_frames if causal else 0
        self.window = config.past_frames if causal else 0
        self.alignment = lcm(ALIGNMENT, self.chunk) if causal else ALIGNMENT
        self.gain = config.gain if causal else 1.0
        self.front = _front(encoder)
        kernel = encoder.position.kernel
        self.positions = Positions(
            window_weight(encoder.position.weight.squeeze(2), encoder.position.groups),
            encoder.position.bias,
            back=kernel - 1 if causal else kernel // 2,
            replicate=causal and config.replicate_padding,
            norm=None if config.do_stable_layer_norm else encoder.norm,
            eps=config.layer_norm_eps,
        )
        self.shape = Shape(
            config.num_attention_heads,
            config.do_stable_layer_norm,
            eps=config.layer_norm_eps,
            farthest=config.max_bucket_distance,
            chunk=self.chunk,
            window=self.window,
        )
        table = encoder.bias_table.float()
        # From the farthest distance on, all keys share one bias.
        self.by_distance = bias_by_distance(table, config.max_bucket_distance + 1, config)
        self.layers = [_layer(each) for each in encoder.layers]

    @torch.inference_mode()
    def __call__(self, packed: Packed) -> Tensor:
        """(rows, D) of a pass; rows of nobody hold what nobody may use."""
        with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
            x = self._run(positions, self._frames(packed), packed.owner, self.positions)
            places = PassPlaces(
                packed.owner,
                packed.block_counts,
                key_blocks=packed.key_blocks,
                by_distance=self.by_distance,
            )
            for weights in self.layers:
                x = self._run(layer, x, weights, places, self.shape)
        return x

    def _frames(self, packed: Packed) -> Tensor:
        """(rows, D) before positions are added."""
        rows, parts = len(packed.owner), []
        # A norm over an utterance's time needs all of it; other convolutions see a frame's samples.
        most = rows if self.front.over_time else ROWS[-1]
        for first in range(0, rows, most):
            last = min(first + most, rows)
            reach = slice(first * SAMPLES_PER_FRAME, last * SAMPLES_PER_FRAME + TAIL)
            samples = packed.samples[reach]
            if self.gain != 1:
                samples = samples * self.gain
            start, count = packed.start[first:last], packed.count[first:last]
            parts.append(self._run(front, samples, start, count, self.front))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        return (_compiled(function) if self.compiled else function)(*args)


def packed_wavlm(encoder: WavLM) -> PackedWavLM | None:
    """The packed form of an encoder on a GPU, or None, with a warning, where it cannot be compiled.

    torch.compile needs a GPU of compute capability 7 or more, a C compiler and Python's headers.
    """
    if encoder.device.type != "cuda" or torch._dynamo.config.disable:
        return None
    lacks = []
    if torch.cuda.get_device_capability(encoder.device)[0] < 7:
        lacks.append("a GPU of compute capability 7 or more")
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        lacks.append("a C compiler")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        lacks.append("Python's headers (python3-dev)")
    if not lacks:
        return PackedWavLM(encoder)
    needs = " and ".join(lacks)
    warnings.warn(
        f"this machine lacks {needs}, so the encoder runs uncompiled, and slower", stacklevel=2
    )
    return None


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # A shape that is new is compiled anew, for that shape: there are few.
    return torch.compile(function, fullgraph=True, dynamic=False)


def _front(encoder: WavLM) -> Front:
    first, *rest = encoder.convs
    over_time = encoder.config.feat_extract_norm == "group"
    projection = encoder.projection
    return Front(
        first.linear.weight.T.contiguous(),
        first.linear.bias,
        first_stride=first.stride,
        first_norm=(first.norm_weight, first.norm_bias) if first.norm else None,
        over_time=over_time,
        rest=tuple(
            Convolution(
                conv.linear.weight,
                conv.linear.bias,
                stride=conv.stride,
                norm=(conv.norm_weight, conv.norm_bias) if conv.norm else None,
            )
            for conv in rest
        ),
        projection_norm=encoder.projection_norm,
        projection=(projection.weight, projection.bias),
        eps=encoder.config.layer_norm_eps,
    )


def _layer(layer: TransformerLayer) -> LayerWeights:
    norm, final_norm = layer.norms
    return LayerWeights(
        _pair(layer.qkv_gate),
        layer.gate_scale,
        out=_pair(layer.out),
        up=_pair(layer.up),
        down=_pair(layer.down),
        norm=norm,
        final_norm=final_norm,
    )


def _pair(linear: InferenceLinear) -> tuple[Tensor, Tensor]:
    assert linear.bias is not None
    return linear.weight, linear.bias
