"""WavLM whose frames see nothing after their chunk: streaming, and offline with the same result.

The causal encoder of FocalCodec-Stream (arXiv 2509.16195), with WavLM's weights and tensor names.
What a frame sees:
* convolutions: frame t covers samples [320 t, 320 t + 400), as in every WavLM. A chunk of 4 frames
  (80 ms) is therefore complete 80 samples after its end: the algorithmic latency is 80 + 5 ms.
* positional convolution: the frame and the 127 before it, zeros before the first. Its weights can
  start from a bidirectional encoder's: see `causal_kernel`.
* attention: its chunk and the 512 frames before the chunk (chunk_mask.py).

With `replicate_padding`, as in FocalCodec-Stream's own code, every convolution is padded on its
left by its first input. For those over samples this equals 399 copies of the first sample, which
stand in front of what comes here (windows.py, stream.py); frame t then covers samples
[320 t - 399, 320 t], and the latency is 80 ms. The positional convolution gets 127 copies of its
first input. Features are those of that code's stream, chunk by chunk. Over a whole utterance of
more than 512 frames, that code lets a last, partial chunk see up to 3 frames more of the past than
its stream does; here the two agree.

There is one forward pass, for a block of whole chunks after a state. A stream takes one chunk at a
time and an utterance 64. Scores are against 768 keys at most, however long the utterance.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.config import EncoderConfig
from tokenizer.encoder.kv_cache import CachedLayers, KVCache
from tokenizer.encoder.packing import groups_of
from tokenizer.encoder.wavlm import PositionalConv, WavLM, frames_of

CHUNKS_PER_BLOCK = 64
# The positional convolution copies the windows of this many frames: 32 MB for wavlm-large.
WINDOWS_AT_A_TIME = 64


@dataclass
class EncoderState:
    """What is kept of the frames before a block. A step updates it in place: use each state once.

    seen: frames so far. tail: (B, 127, D), the last inputs of the positional convolution. caches:
    one for each layer.
    """

    seen: int
    tail: Tensor
    caches: list[KVCache]


class CausalWavLM(WavLM):
    """The chunk-causal encoder: 16 kHz waveforms → features of one WavLM layer."""

    def _prepare_context(self, conv_weights: dict[str, Tensor]) -> None:
        config = self.config
        self.position = CausalPositionalConv(conv_weights, config)
        self.block_frames = CHUNKS_PER_BLOCK * config.chunk_frames
        self.cached_layers = CachedLayers(
            self.layers,
            self.bias_table,
            config,
            chunk=config.chunk_frames,
            window=config.past_frames,
            block=self.block_frames,
        )

    @torch.inference_mode()
    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """Features of `config.layer` for each waveform, the same as a stream of it gives.

        waveforms: 1-D float tensors at 16 kHz in [-1, 1], of at least 400 samples. Returns one
        (T, D) tensor each, T = floor((n - 400) / 320) + 1. Raises ValueError for a shorter one.
        """
        lengths = frames_of(waveforms)
        if not lengths:
            return []
        x = self.frames([wave * self.config.gain for wave in waveforms], lengths)
        done = []
        for group in groups_of(lengths, self.device, self.utterances_per_group):
            ends = None if group.index is None else torch.tensor(group.lengths, device=self.device)
            state, blocks = None, []
            for number, block in enumerate(group.pad(x).split(self.block_frames, dim=1)):
                left = None if ends is None else ends - number * self.block_frames
                block, state = self.after(block, state, left)
                blocks.append(block)
            done.append(group.unpad(torch.cat(blocks, dim=1)))
        return list(torch.cat(done).split(lengths))

    @torch.inference_mode()
    def step(self, wave: Tensor, state: EncoderState | None) -> tuple[Tensor, EncoderState]:
        """(n,) samples, from the next frame's first → (T, D) of all frames in them, and the state.

        At most CHUNKS_PER_BLOCK chunks, all whole except a stream's last. state: None at the start.
        """
        x = self.frames([wave * self.config.gain], frames_of([wave]))
        features, state = self.after(x[None], state, None)
        return features[0], state

    def after(
        self, x: Tensor, state: EncoderState | None, ends: Tensor | None
    ) -> tuple[Tensor, EncoderState]:
        """A block (B, T, D) of `frames` after a state → its features, and the state after it.

        ends: (B,), the frames left of each utterance, where some end before the block does.
        """
        batch, frames, width = x.shape
        if state is None:
            before = x[:, :1] if self.config.replicate_padding else x.new_zeros(batch, 1, width)
            tail = before.expand(batch, self.position.kernel - 1, width)
            state = EncoderState(0, tail, self.cached_layers.new_caches())
        with_tail = torch.cat([state.tail, x], dim=1)
        state.tail = with_tail[:, frames:]
        x = x + self.position(with_tail)
        if not self.config.do_stable_layer_norm:
            x = F.layer_norm(x, (width,), *self.norm, eps=self.config.layer_norm_eps)
        allowed = None
        if ends is not None:
            key = torch.arange(-min(state.seen, self.config.past_frames), frames)
            allowed = (key.to(self.device) < ends[:, None])[:, None]
        x = self.cached_layers(x, state.caches, state.seen, allowed=allowed)
        state.seen += frames
        return x, state


class CausalPositionalConv(PositionalConv):
    """The positional convolution over past frames: (B, 127 + T, D) → (B, T, D).

    On a CPU in fp32 it is one product per group, with the frames' windows side by side: 7 times as
    fast as PyTorch's convolution for one chunk (wavlm-large, 27 ms there), and no slower for a
    block.
    """

    def __init__(self, weights: dict[str, Tensor], config: EncoderConfig) -> None:
        super().__init__(weights, config)
        self.products: Tensor | None = None
        if self.weight.is_cpu and self.packed is None:
            weight = self.weight.squeeze(2).unflatten(0, (self.groups, -1))  # (G, O, C, taps)
            self.products = weight.permute(0, 3, 2, 1).flatten(1, 2).contiguous()
            self.weight = weight.new_empty(0)  # not used again: memory is one copy

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 127 + T, D) → (B, T, D): each of the last T frames from itself and the 127 before."""
        if self.packed is not None:
            return self.packed(x)
        if self.products is None:
            return F.gelu(self._convolve(x, 0))
        groups, window, _ = self.products.shape
        channels = window // self.kernel
        by_group = x.unflatten(-1, (groups, channels)).transpose(1, 2).flatten(2)
        done = []
        for row in by_group:  # (G, (127 + T) C)
            windows = row.unfold(1, window, channels).split(WINDOWS_AT_A_TIME, dim=1)
            done.append(torch.cat([torch.bmm(part, self.products) for part in windows], dim=1))
        return F.gelu(torch.stack(done).transpose(1, 2).flatten(2) + self.bias)


def causal_kernel(kernel: Tensor) -> Tensor:
    """A positional convolution's weight (D, D / groups, taps) → a causal one to start from.

    Tap k of the bidirectional kernel is for the frame at distance k - taps / 2; of the causal one,
    for the frame at k - taps + 1. Taps for the past and the frame itself keep their distances, taps
    for the future are dropped, and the new distances start at zero. The causal wavlm-tiny then
    starts with an error of a fifth of its features' variance (layer 4), before any training; with
    the taps in their old order, which delays them, it starts with half.
    """
    taps = kernel.shape[-1]
    start = torch.zeros_like(kernel)
    start[..., taps - 1 - taps // 2 :] = kernel[..., : taps // 2 + 1]
    return start
