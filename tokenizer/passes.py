"""A tokenizer's batches on a GPU: one copy in, kernels, one copy out, and no waiting in between.

A batch is cut into passes of bounded size. The kernels of a pass are queued while those of the last
one run, and so are those of a batch whose tokens nobody has asked for yet.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tokenizer.codec.centring import AVERAGE_FRAMES
from tokenizer.codec.codebook import Codebook
from tokenizer.encoder.gpu.encoder import PackedWavLM, packed_wavlm
from tokenizer.encoder.gpu.functions import segment_sums
from tokenizer.encoder.gpu.layout import Layout, Packed, joined, pack, passes_of, unpack
from tokenizer.encoder.wavlm import WavLM

if TYPE_CHECKING:
    from tokenizer.tokenizer import Tokenizer

# All on the host, or all on the device, (n,) each.
Waves = Sequence[np.ndarray] | Sequence[Tensor]


def device_passes(tokenizer: "Tokenizer") -> "DevicePasses | None":
    """How a tokenizer with a WavLM on a GPU encodes batches; None where nothing can be compiled."""
    assert isinstance(tokenizer.encoder, WavLM)
    packed = packed_wavlm(tokenizer.encoder)
    return DevicePasses(packed, tokenizer) if packed else None


@dataclass
class Pass:
    """One pass that has been queued.

    rows: on the device, what is looked up, (N, D). host: on its way from the device, (N, ·).
    places: of each utterance, its part of N. done: recorded when host has arrived; None on a CPU.
    """

    rows: Tensor
    host: Tensor
    places: list[slice]
    done: "torch.cuda.Event | None"

    def arrived(self) -> np.ndarray:
        """Wait for the copy."""
        if self.done is not None:
            self.done.synchronize()
        return self.host.numpy()


class PendingTokens:
    """Tokens of a batch that is being encoded."""

    def __init__(self, passes: list[Pass], codebook: Codebook, dtype: type[np.integer]) -> None:
        self.passes, self.codebook, self.dtype = passes, codebook, dtype

    def tokens(self) -> list[np.ndarray]:
        """Wait for them: (T',) of each waveform."""
        return [tokens for each in self.passes for tokens in self._of_pass(each)]

    def _of_pass(self, each: Pass) -> list[np.ndarray]:
        found = each.arrived()
        # Where bf16 left two codes too close to each other, fp32 products of all codes decide.
        doubtful = [np.arange(p.start, p.stop)[found[p] < 0] for p in each.places]
        rows = np.concatenate(doubtful)
        if len(rows):
            index = torch.from_numpy(rows).to(each.rows.device)
            found[rows] = self.codebook.nearest(each.rows[index]).cpu().numpy()
        return [found[place].astype(self.dtype) for place in each.places]


class DevicePasses:
    """Encoder, centring, compressor and codebook of a tokenizer, over batches of waveforms."""

    def __init__(self, encoder: PackedWavLM, tokenizer: "Tokenizer") -> None:
        """encoder: of the tokenizer's encoder. tokenizer: on the device, for its other parts."""
        self.encoder, self.device = encoder, tokenizer.device
        self.center = tokenizer.center
        self.latents: Callable[[Tensor, Tensor], Tensor] | None = None
        if tokenizer.compression is not None:
            self.latents = tokenizer.compression.padded_latents
            if encoder.compiled:
                self.latents = torch.compile(self.latents, fullgraph=True)
        self.codebook, self.dtype = tokenizer.codebook, tokenizer.token_dtype
        self.frames_per_token = tokenizer.frames_per_token
        # Copies to the device go beside the kernels of the batch before.
        self.copies = torch.cuda.Stream(self.device) if torch.cuda.is_available() else None

    def start(self, waves: Waves) -> PendingTokens:
        """Queue a batch. waves: (n,) fp32 each, as Tokenizer.encode_windows takes them."""
        assert self.codebook is not None
        passes = []
        for part in self._parts(waves):
            rows, places = self._features(part)
            passes.append(self._fetch(rows, self.codebook.lookup(rows).int(), places))
        return PendingTokens(passes, self.codebook, self.dtype)

    def features(self, waves: Waves) -> list[np.ndarray]:
        """(T, ·) fp32 of each waveform: what the codebook looks up."""
        passes = []
        for part in self._parts(waves):
            rows, places = self._features(part)
            passes.append(self._fetch(rows, rows.float(), places))
        return [each.arrived()[place].copy() for each in passes for place in each.places]

    def _parts(self, waves: Waves) -> list[Waves]:
        cuts = passes_of([len(wave) for wave in waves], self.encoder.alignment)
        return [waves[cut] for cut in cuts]

    @torch.inference_mode()
    def _features(self, waves: Waves) -> tuple[Tensor, list[slice]]:
        """The waveforms of a pass → (N, ·), and each one's part of N."""
        layout = Layout.of([len(wave) for wave in waves], self.encoder.alignment)
        packed = self._packed(layout, waves)
        x = self.encoder(packed)
        if self.center is not None:
            x = centred_rows(x, packed, self.center)
        if self.latents is None:
            ends = layout.starts + layout.lengths
            return x, [slice(*pair) for pair in zip(layout.starts, ends, strict=True)]
        padded, ends = x[packed.index], packed.length[packed.index[:, 0]]
        for values, dims in ((padded, [0, 1]), (ends, [0])):
            # Compiled once for utterances of any number and length, and once more for one alone.
            torch._dynamo.maybe_mark_dynamic(values, dims)
        latents = self.latents(padded, ends)
        longest = latents.shape[1]
        counts = -(-layout.lengths // self.frames_per_token)
        places = [slice(n * longest, n * longest + count) for n, count in enumerate(counts)]
        return latents.flatten(0, 1), places

    def _packed(self, layout: Layout, waves: Waves) -> Packed:
        encoder, on_host = self.encoder, [w for w in waves if isinstance(w, np.ndarray)]
        host = pack(
            layout,
            on_host,
            pinned=self.copies is not None,
            chunk=encoder.chunk,
            window=encoder.window,
        )
        with torch.cuda.stream(self.copies) if self.copies is not None else nullcontext():
            buffer = host.to(self.device, non_blocking=True)
        if self.copies is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.copies)
            buffer.record_stream(current)
        if on_host:
            return unpack(buffer, layout)
        return unpack(buffer, layout, joined(layout, [w for w in waves if isinstance(w, Tensor)]))

    def _fetch(self, rows: Tensor, values: Tensor, places: list[slice]) -> Pass:
        """Queue the copy of a pass's values to the host."""
        pinned = self.copies is not None
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=pinned)
        host.copy_(values, non_blocking=True)
        done = None
        if pinned:
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self.device))
        return Pass(rows, host, places, done=done)


def centred_rows(x: Tensor, packed: Packed, center: Tensor) -> Tensor:
    """`centred`, of all utterances of a pass: (rows, D) → (rows, D) fp32."""
    x = x.float()
    mine = torch.where((packed.owner >= 0)[:, None], x, 0.0)
    begin = packed.start.clamp(min=0).long()
    length = packed.length.clamp(min=1)
    mean = segment_sums(mine, begin, begin + length) / length[:, None]
    weight = (length / (length + AVERAGE_FRAMES))[:, None]
    return x - weight * (mean - center)
