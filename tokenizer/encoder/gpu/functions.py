"""WavLM over a packed pass, as three functions of tensors that torch.compile makes kernels of.

Compiled, a layer norm and the GELU after it are one kernel, and so is the whole first convolution;
no attention score leaves its kernel; and no convolution copies the windows of its input, except the
positional one, an eighth of them. The functions take weights as arguments, so that all layers share
what is compiled. On a CPU they run uncompiled, for tests alone.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from tokenizer.audio.frames import SAMPLES_PER_FRAME
from tokenizer.encoder.chunk_mask import chunk_causal_mask
from tokenizer.encoder.gpu.layout import ALIGNMENT, BLOCK
from tokenizer.encoder.relative_position import position_gate

# Of FlexAttention's kernel; see lm/attention.py, where more stages did not fit an H100.
KERNEL_OPTIONS: Any = {"num_stages": 2}


class Convolution(NamedTuple):
    """A convolution over frames, its weight as (out, kernel in), and its layer norm if any."""

    weight: Tensor
    bias: Tensor | None
    stride: int
    norm: tuple[Tensor, Tensor] | None


class Front(NamedTuple):
    """The convolutions and the projection. over_time: the first norm is over an utterance's time.

    first: the first convolution's weight (kernel, out), for one channel.
    """

    first: Tensor
    first_bias: Tensor | None
    first_stride: int
    first_norm: tuple[Tensor, Tensor] | None
    over_time: bool
    rest: tuple[Convolution, ...]
    projection_norm: tuple[Tensor, Tensor] | None
    projection: tuple[Tensor, Tensor | None]
    eps: float


def front(samples: Tensor, start: Tensor, count: Tensor, parts: Front) -> Tensor:
    """(320 rows + 80,) fp32 samples of a pass → (rows, D), before positions are added.

    start, count: (rows,), as Packed's.
    """
    dtype, kernel = parts.first.dtype, len(parts.first)
    out = (len(samples) - kernel) // parts.first_stride + 1
    # One channel: a sum over the taps, which is a part of the norm's kernel. In fp32.
    x = samples.new_zeros(()) if parts.first_bias is None else parts.first_bias.float()
    for tap, weight in enumerate(parts.first.float().unbind(0)):
        stop = tap + parts.first_stride * (out - 1) + 1
        x = x + samples[tap : stop : parts.first_stride, None] * weight
    if parts.over_time:
        assert parts.first_norm is not None
        reach = kernel, parts.first_stride
        x = over_time(x, start, count, norm=parts.first_norm, reach=reach)
    elif parts.first_norm is not None:
        weight, bias = parts.first_norm
        x = F.layer_norm(x, x.shape[-1:], weight.float(), bias.float())
    x = F.gelu(x).to(dtype)
    for conv in parts.rest:
        x = convolve(x, conv)
        if conv.norm is not None:
            x = F.layer_norm(x, x.shape[-1:], *conv.norm)
        x = F.gelu(x)
    if parts.projection_norm is not None:
        x = F.layer_norm(x, x.shape[-1:], *parts.projection_norm, eps=parts.eps)
    return F.linear(x, *parts.projection)


def convolve(x: Tensor, conv: Convolution) -> Tensor:
    """(T, C) → (T', O), as products of views: the taps of a whole stride at once, then the rest.

    Windows that overlap are no matrix that a product takes, and would be copied. These do not.
    """
    channels, stride = x.shape[1], conv.stride
    taps = conv.weight.shape[1] // channels
    out = (len(x) - taps) // stride + 1
    whole = x[: out * stride].view(out, stride * channels)
    y = F.linear(whole, conv.weight[:, : stride * channels], conv.bias)
    for tap in range(stride, taps):
        weight = conv.weight[:, tap * channels : (tap + 1) * channels]
        y = y + F.linear(x[tap : tap + stride * (out - 1) + 1 : stride], weight)
    return y


def over_time(
    x: Tensor, start: Tensor, count: Tensor, *, norm: tuple[Tensor, Tensor], reach: tuple[int, int]
) -> Tensor:
    """Each channel normalised over each utterance's time, as wavlm-base's first convolution.

    x: (T, C) fp32, the first convolution's output. reach: its kernel and stride.
    """
    kernel, stride = reach
    rows = len(start)
    each = SAMPLES_PER_FRAME // stride
    inside = x[: rows * each].view(rows, each, -1)
    outputs = (count - kernel) // stride + 1  # of the whole utterance
    row = torch.arange(rows, device=x.device)
    place = ((row - start) * each)[:, None] + torch.arange(each, device=x.device)
    there = ((place < outputs[:, None]) & (start >= 0)[:, None])[..., None]
    begin = start.clamp(min=0).long()
    end = begin + -(-count.clamp(min=1) // SAMPLES_PER_FRAME).long()
    divisor = outputs.clamp(min=1)[:, None].float()

    def mean(values: Tensor) -> Tensor:
        # A difference of running sums in fp64: no result depends on another utterance.
        return segment_sums(torch.where(there, values, 0.0).sum(1), begin, end) / divisor

    centred = inside - mean(inside)[:, None]
    variance = mean(centred.square())[:, None]
    weight, bias = norm
    normed = centred * torch.rsqrt(variance + 1e-5) * weight.float() + bias.float()
    # What follows the last row is nobody's.
    return F.pad(normed.flatten(0, 1), (0, 0, 0, len(x) - rows * each))


def segment_sums(values: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """(rows, C) fp32 → (rows, C): for each row the sum of rows [begin, end), in fp64 inside."""
    sums = F.pad(values.double().cumsum(0), (0, 0, 1, 0))
    return (sums[end] - sums[begin]).float()


class Positions(NamedTuple):
    """The positional convolution as products of windows; see `window_weight`.

    back: frames before a frame at which its first tap is. replicate: frames before an utterance are
    its first one, and not zero. norm: of a post-norm encoder, before its first layer.
    """

    weight: Tensor
    bias: Tensor
    back: int
    replicate: bool
    norm: tuple[Tensor, Tensor] | None
    eps: float


def positions(x: Tensor, owner: Tensor, parts: Positions) -> Tensor:
    """(rows, D) → same, with the positional embedding added. owner: (rows,), as Packed's."""
    rows, width = x.shape
    groups, window, _ = parts.weight.shape
    reach = window * groups // width
    first = torch.arange(0, rows, ALIGNMENT, device=x.device)
    place = first[:, None] + torch.arange(reach, device=x.device) - parts.back
    mine = owner[first][:, None]
    if parts.replicate:
        place = torch.maximum(place, mine)
    inside = place.clamp(0, rows - 1)
    same = (owner[inside] == mine) & (inside == place)
    windows = torch.where(same[..., None], x[inside], 0.0)
    windows = windows.view(*place.shape, groups, -1).permute(2, 0, 1, 3).flatten(2)
    y = torch.bmm(windows, parts.weight).unflatten(2, (ALIGNMENT, -1))
    y = y.permute(1, 2, 0, 3).reshape(rows, width)
    x = x + F.gelu(y + parts.bias)
    if parts.norm is not None:
        x = F.layer_norm(x, x.shape[-1:], *parts.norm, eps=parts.eps)
    return x


def window_weight(weight: Tensor, groups: int) -> Tensor:
    """A grouped convolution's weight (D, D / groups, taps) → (groups, (7 + taps) C, 8 O).

    One product then gives 8 frames, from the 7 + taps frames they see: 1.05 times the operations,
    and windows that take an eighth of what one a frame would.
    """
    out, channels, taps = weight.shape
    by_group = weight.view(groups, out // groups, channels, taps).permute(0, 3, 2, 1)
    reach = ALIGNMENT - 1 + taps
    whole = weight.new_zeros(groups, reach, channels, ALIGNMENT, out // groups)
    for frame in range(ALIGNMENT):
        whole[:, frame : frame + taps, :, frame] = by_group
    return whole.flatten(3).flatten(1, 2)


class LayerWeights(NamedTuple):
    """One transformer layer's: pairs are weight and bias. gate_scale: (H,), None without a bias."""

    qkv: tuple[Tensor, Tensor]
    gate_scale: Tensor | None
    out: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]
    final_norm: tuple[Tensor, Tensor]


class Shape(NamedTuple):
    """What the layers of an encoder share. chunk, window: of a causal one, else 0."""

    heads: int
    pre_norm: bool
    eps: float
    farthest: int
    chunk: int
    window: int


class PassPlaces(NamedTuple):
    """What attention needs to know of a pass: see Packed.

    by_distance: (H, 2 farthest + 1) fp32, the position bias of each distance, the same from the
    farthest on; empty without a position bias.
    """

    owner: Tensor
    block_counts: Tensor
    key_blocks: Tensor
    by_distance: Tensor


def layer(x: Tensor, weights: LayerWeights, places: PassPlaces, shape: Shape) -> Tensor:
    """One transformer layer over packed rows, (rows, D) → same."""
    rows, width = x.shape
    y = norm(x, weights.norm, shape.eps) if shape.pre_norm else x
    y = F.linear(y, *weights.qkv)
    q, k, v = y[:, : 3 * width].view(1, rows, 3, shape.heads, -1).permute(2, 0, 3, 1, 4)
    gate = None
    if weights.gate_scale is not None:
        gate = position_gate(y[:, 3 * width :].float(), weights.gate_scale.float())
    mixed = attend(q, k, v, gate=gate, places=places, shape=shape)
    x = x + F.linear(mixed.transpose(1, 2).reshape(rows, width), *weights.out)
    if shape.pre_norm:
        y = norm(x, weights.final_norm, shape.eps)
        return x + F.linear(F.gelu(F.linear(y, *weights.up)), *weights.down)
    x = norm(x, weights.norm, shape.eps)
    y = F.linear(F.gelu(F.linear(x, *weights.up)), *weights.down)
    return norm(x + y, weights.final_norm, shape.eps)


def norm(x: Tensor, weights: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """Layer norm over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], *weights, eps=eps)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, gate: Tensor | None, places: PassPlaces, shape: Shape
) -> Tensor:
    """Attention of each utterance to itself, with the gated relative position bias.

    q, k, v: (1, H, rows, d). gate: (rows, H) fp32. Returns (1, H, rows, d).
    """
    by_distance, farthest = places.by_distance, shape.farthest

    def biased(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert gate is not None
        distance = (key - query).clamp(-farthest, farthest)
        return score + gate[query, head] * by_distance[head, distance + farthest]

    mask = block_mask(places, shape)
    # Its types allow for more that it may return.
    attention: Any = flex_attention
    return attention(
        q,
        k,
        v,
        score_mod=None if gate is None else biased,
        block_mask=mask,
        kernel_options=KERNEL_OPTIONS,
    )


def block_mask(places: PassPlaces, shape: Shape) -> BlockMask:
    """Who sees whom: rows of one utterance each other, within the chunk-causal mask if any."""
    owner, counts, blocks = places.owner, places.block_counts, places.key_blocks

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = owner[query] == owner[key]
        if not shape.chunk:
            return same
        # Utterances start where chunks do, so rows count as positions.
        return same & chunk_causal_mask(query, key, chunk=shape.chunk, window=shape.window)

    return BlockMask.from_kv_blocks(
        counts[0][None, None],
        blocks[0][None, None],
        counts[1][None, None],
        blocks[1][None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        compute_q_blocks=False,
    )
