"""WavLM that hears nothing later than its chunk: for streams, and offline with the same result.

The causal encoder of FocalCodec-Stream (arXiv 2509.16195), on WavLM's own weights and names, with
what a frame sees defined so:
* convolutions: frame t is of samples [320 t, 320 t + 400), as in every WavLM. A chunk of 4 frames
  (80 ms) is therefore known 80 samples after its end: the algorithmic latency is 80 + 5 ms.
* positional convolution: the frame and the 127 before it, zeros before the beginning. Of the 128
  taps of a bidirectional encoder, those for the past start at their distances: `causal_kernel`.
* attention: frame t of the chunk that begins at c = t - t mod 4 sees frames [c - 512, c + 4).

There is one forward pass, over a block of whole chunks after a state. A stream takes a chunk at a
time and an utterance 64, whose scores are against 768 keys at most, however long the utterance.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.audio.frames import RECEPTIVE_FIELD, num_frames
from tokenizer.config import EncoderConfig
from tokenizer.encoder.packing import groups_of
from tokenizer.encoder.wavlm import PositionalConv, WavLM, position_buckets

CHUNKS_PER_BLOCK = 64
# The positional convolution lays out what this many frames see: 32 MB for wavlm-large.
POSITIONS_AT_A_TIME = 64


@dataclass
class EncoderState:
    """What is kept of the frames before a block. Each block changes it for the next: use it once.

    seen: frames so far. tail: (B, 127, D), for the positional convolution. past: of each layer.
    """

    seen: int
    tail: Tensor
    past: "list[Past]"


class CausalWavLM(WavLM):
    """The chunk-causal encoder: 16 kHz waveforms → features of one WavLM layer."""

    def __init__(
        self,
        config: EncoderConfig,
        weights: dict[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        utterances_per_group: int | None = None,
    ) -> None:
        """As WavLM's, of a configuration that is causal."""
        super().__init__(config, weights, device, dtype, utterances_per_group)
        self.position = _PositionsBefore(self.position)
        self.block_frames = CHUNKS_PER_BLOCK * config.chunk_frames
        keys = config.past_frames + self.block_frames
        key = torch.arange(-config.past_frames, self.block_frames)
        query = torch.arange(self.block_frames)[:, None]
        chunk = query - query % config.chunk_frames
        hidden = (key < chunk - config.past_frames) | (key >= chunk + config.chunk_frames)
        self.hidden = hidden.to(self.device)
        if config.layer:
            by_distance = self.bias_table[position_buckets(keys, config).to(self.device)].T
            self.block_bias = by_distance[:, (key - query + keys - 1).to(self.device)].contiguous()

    @torch.inference_mode()
    def __call__(self, waveforms: list[Tensor]) -> list[Tensor]:
        """Features of `config.layer` for each waveform: those that a stream of it would give.

        waveforms: 1-D float tensors at 16 kHz in [-1, 1], of at least 400 samples. Returns one
        (T, D) tensor each, T = floor((n - 400) / 320) + 1; raises ValueError for a shorter one.
        """
        lengths = [num_frames(len(wave)) for wave in waveforms]
        if not lengths:
            return []
        if min(lengths) < 1:
            raise ValueError(f"a waveform has fewer than {RECEPTIVE_FIELD} samples")
        x = self.frames([wave * self.config.gain for wave in waveforms], lengths)
        done = []
        for group in groups_of(lengths, self.device, self.utterances_per_group):
            ends = None if group.index is None else torch.tensor(group.lengths, device=self.device)
            state, blocks = None, []
            for first, block in enumerate(group.pad(x).split(self.block_frames, dim=1)):
                left = None if ends is None else ends - first * self.block_frames
                block, state = self.after(block, state, left)
                blocks.append(block)
            done.append(group.unpad(torch.cat(blocks, dim=1)))
        return list(torch.cat(done).split(lengths))

    @torch.inference_mode()
    def step(self, wave: Tensor, state: EncoderState | None) -> tuple[Tensor, EncoderState]:
        """(n,) samples, from the next frame's first on → (T, D) of all its frames, and the state.

        At most CHUNKS_PER_BLOCK chunks, all whole but a stream's last. state: None at its start.
        """
        x = self.frames([wave * self.config.gain], [num_frames(len(wave))])
        features, state = self.after(x[None], state, None)
        return features[0], state

    def after(
        self, x: Tensor, state: EncoderState | None, ends: Tensor | None
    ) -> tuple[Tensor, EncoderState]:
        """A block (B, T, D) of `frames` after a state → its features, and the state after it.

        ends: (B,) frames left of each utterance, where some end earlier than the block.
        """
        config, heads = self.config, self.config.num_attention_heads
        batch, frames, width = x.shape
        if state is None:
            past = [Past(config.past_frames, self.block_frames) for _ in self.layers]
            state = EncoderState(0, x.new_zeros(batch, self.position.kernel - 1, width), past)
        shown = slice(max(0, config.past_frames - state.seen), config.past_frames + frames)
        bias = self.block_bias[:, :frames, shown] if self.layers else None
        hidden = self._hidden(frames, shown, ends)
        heard = torch.cat([state.tail, x], dim=1)
        state.tail = heard[:, frames:]
        state.seen += frames
        x = x + self.position(heard)
        if not config.do_stable_layer_norm:
            x = F.layer_norm(x, (width,), *self.norm, eps=config.layer_norm_eps)
        for layer, past in zip(self.layers, state.past):
            qkv, gate = layer.project(x.flatten(0, 1))
            q, k, v = qkv.view(batch, frames, 3, heads, -1).permute(2, 0, 3, 1, 4)
            k, v = past.extended(k, v)
            gate = gate.view(batch, frames, heads, 1).transpose(1, 2)
            mixed = layer.attention(q, k, v, gate, bias, hidden)
            x = layer.finish(x.flatten(0, 1), mixed.transpose(1, 2).flatten(2).flatten(0, 1))
            x = x.view(batch, frames, width)
        return x, state

    def _hidden(self, frames: int, shown: slice, ends: Tensor | None) -> Tensor | None:
        """(1 or B, T, K): the keys that a query must not see; None where it may see them all."""
        if frames <= self.config.chunk_frames and ends is None:
            return None
        hidden = self.hidden[None, :frames, shown]
        if ends is None:
            return hidden
        place = torch.arange(shown.stop - shown.start, device=self.device)
        place = place + shown.start - self.config.past_frames
        return hidden | (place >= ends[:, None])[:, None]


class _PositionsBefore:
    """The positional convolution that looks back: (B, 127 + T, D) → (B, T, D).

    On a CPU, as a product for each group with its frames' windows side by side: of a chunk, 7 times
    as fast as PyTorch's convolution (wavlm-large, 27 ms there), and of a block no slower.
    """

    def __init__(self, conv: PositionalConv) -> None:
        self.conv, self.kernel, self.bias = conv, conv.kernel, conv.bias
        if conv.weight.is_cpu:
            weight = conv.weight.squeeze(2).unflatten(0, (conv.groups, -1))  # (G, O, C, taps)
            self.products = weight.permute(0, 3, 2, 1).flatten(1, 2).contiguous()
            self.conv = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            return self.conv.look_back(x)
        groups, window, _ = self.products.shape
        channels = window // self.kernel
        by_group = x.unflatten(-1, (groups, channels)).transpose(1, 2).flatten(2)
        done = []
        for own in by_group:  # (G, (127 + T) C)
            seen = own.unfold(1, window, channels).split(POSITIONS_AT_A_TIME, dim=1)
            done.append(torch.cat([torch.bmm(part, self.products) for part in seen], dim=1))
        return F.gelu(torch.stack(done).transpose(1, 2).flatten(2) + self.bias)


class Past:
    """A layer's keys and values of the last frames, in a buffer that moves only when it is full."""

    def __init__(self, frames: int, block: int) -> None:
        """frames: how many are kept. block: the most that come at once."""
        self.frames, self.room, self.stop = frames, frames + block, 0
        self.buffer: Tensor | None = None

    def extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, T, d) of a block → (B, H, P + T, d), P being as many as are kept by now."""
        if self.buffer is None:
            batch, heads, _, dim = k.shape
            self.buffer = k.new_empty(2, batch, heads, self.room, dim)
        frames = k.shape[2]
        if self.stop + frames > self.room:
            kept = self.buffer[..., self.stop - self.frames : self.stop, :].clone()
            self.buffer[..., : self.frames, :] = kept
            self.stop = self.frames
        start = max(0, self.stop - self.frames)
        for buffer, own in zip(self.buffer, (k, v)):
            buffer[..., self.stop : self.stop + frames, :] = own
        self.stop += frames
        return tuple(self.buffer[..., start : self.stop, :])


def causal_kernel(kernel: Tensor) -> Tensor:
    """A positional convolution's weight (D, D / groups, taps) → the causal one to start from.

    Tap k of the bidirectional one is for the frame at distance k - taps / 2, of the causal one for
    that at k - taps + 1: weights for the past and the frame itself keep their distances, those for
    what comes are dropped, and the distances that were out of reach start at zero. So started, the
    causal wavlm-tiny has a fifth of its features' variance as error before any training (layer 4);
    with the taps left in their order, delayed, it has half.
    """
    taps = kernel.shape[-1]
    start = torch.zeros_like(kernel)
    start[..., taps - 1 - taps // 2 :] = kernel[..., : taps // 2 + 1]
    return start
