"""Where the utterances of a batch lie, side by side, in one stream of samples and one matrix.

Row r of the matrix is the frame of samples [320 r, 320 r + 400) of the stream. An utterance starts
at a row and takes as many as its samples do, so the whole batch goes through the convolutions as
one utterance would, without padding. Rows that also reach into the next utterance belong to nobody.

The number of rows is one of ROWS, and so the shapes that are compiled are few. All that a pass
needs lies in one buffer, which is copied to the device at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenizer.audio.frames import RECEPTIVE_FIELD, SAMPLES_PER_FRAME, num_frames

# A pass has as many rows as the next of these; more than the last come as multiples of it.
ROWS = (512, 1024, 2048, 3072, 4096, 6144, 8192, 10240, 12288, 14336, 16384)
# Utterances start at multiples of this: the positional convolution computes as many rows at a time,
# and chunks of a causal encoder begin with them.
ALIGNMENT = 8
# Rows in a block of FlexAttention's mask.
BLOCK = 128
# Samples of the stream after the last row's 320, which its frame covers too.
TAIL = RECEPTIVE_FIELD - SAMPLES_PER_FRAME
# Rows of integers before the lists of blocks; see Packed.
PER_ROW = 4


@dataclass(frozen=True)
class Layout:
    """The places of a pass's utterances. Integers on the host.

    starts, lengths, samples: of each utterance, its first row, its frames and its samples. rows:
    of the pass.
    """

    starts: np.ndarray
    lengths: np.ndarray
    samples: np.ndarray
    rows: int

    @classmethod
    def of(cls, samples: Sequence[int], alignment: int = ALIGNMENT) -> "Layout":
        """samples: of each utterance, at least 400. Raises ValueError for fewer."""
        if min(samples) < RECEPTIVE_FIELD:
            raise ValueError(f"a waveform has fewer than {RECEPTIVE_FIELD} samples")
        taken = np.array([taken_rows(n, alignment) for n in samples])
        starts = np.cumsum(taken) - taken
        lengths = np.array([num_frames(n) for n in samples])
        rows = padded_rows(int(taken.sum()))
        return cls(starts, lengths, samples=np.asarray(samples), rows=rows)

    def per_row(self) -> np.ndarray:
        """(4, rows) int32; see Packed."""
        values = np.full((PER_ROW, self.rows), -1, np.int32)
        for start, length, samples in zip(self.starts, self.lengths, self.samples, strict=True):
            stop = start + -(-samples // SAMPLES_PER_FRAME)
            values[0, start : start + length] = start
            values[1:, start:stop] = [[start], [length], [samples]]
        return values

    def key_blocks(self, chunk: int = 0, window: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(2, blocks) int32, how many blocks of keys each block of queries has, and which: (2,
        blocks, blocks).

        First those that need a mask, then those whose every key is seen by every query: where one
        utterance fills both blocks. chunk, window: of the chunk-causal mask, where there is one.
        """
        count, length = self.rows // BLOCK, BLOCK
        owner = self.per_row()[0]
        owner = np.where(owner < 0, self.rows, owner).reshape(count, length)
        lowest, highest = owner.min(1), owner.max(1)
        whole = (lowest == highest) & (lowest < self.rows)
        full = whole[:, None] & (lowest[:, None] == np.where(whole, lowest, -1)[None])
        # Rows of nobody see each other: a softmax needs a key.
        partial = np.zeros_like(full)
        np.fill_diagonal(partial, True)
        firsts = self.starts // length
        lasts = (self.starts + self.lengths - 1) // length
        for first, last in zip(firsts, lasts, strict=True):
            partial[first : last + 1, first : last + 1] = True
        if chunk:
            first = np.arange(count) * length
            seen_from = (first - first % chunk - window)[:, None]
            last = first + length - 1
            seen_to = (last - last % chunk + chunk)[:, None]
            partial &= (last >= seen_from) & (first < seen_to)
            full[:] = False
        partial &= ~full
        numbers = np.stack([partial.sum(1), full.sum(1)]).astype(np.int32)
        order = np.stack([np.argsort(~kind, axis=1, kind="stable") for kind in (partial, full)])
        return numbers, order.astype(np.int32)

    def padded_index(self) -> np.ndarray:
        """(utterances, longest) int32: each utterance's rows, then its last row again."""
        place = np.minimum(np.arange(int(self.lengths.max())), self.lengths[:, None] - 1)
        return (self.starts[:, None] + place).astype(np.int32)

    @property
    def samples_in_stream(self) -> int:
        """Of the whole pass, those of nobody included."""
        return self.rows * SAMPLES_PER_FRAME + TAIL


def taken_rows(samples: int, alignment: int = ALIGNMENT) -> int:
    """Rows that an utterance of this many samples takes."""
    return -(-samples // (SAMPLES_PER_FRAME * alignment)) * alignment


def padded_rows(rows: int) -> int:
    """The least number of rows that are compiled and hold this many."""
    if rows > ROWS[-1]:
        return -(-rows // ROWS[-1]) * ROWS[-1]
    return next(size for size in ROWS if size >= rows)


def passes_of(samples: Sequence[int], alignment: int = ALIGNMENT) -> list[slice]:
    """Consecutive utterances that go through together: at most ROWS[-1] rows, or one utterance."""
    cuts, rows = [0], 0
    for place, count in enumerate(samples):
        taken = taken_rows(count, alignment)
        if rows and rows + taken > ROWS[-1]:
            cuts.append(place)
            rows = 0
        rows += taken
    ends = [*cuts[1:], len(samples)]
    return [slice(start, stop) for start, stop in zip(cuts, ends, strict=True) if stop > start]


@dataclass(frozen=True)
class Packed:
    """A pass on the device. All are views of one buffer.

    samples: (320 rows + 80,) fp32. owner: (rows,) int32, the first row of the utterance whose frame
    a row is, -1 of nobody's. start, length, count: (rows,) int32, of the utterance in whose samples
    the row begins, its first row, its frames and its samples; -1 after the last. block_counts: (2,
    blocks), key_blocks: (2, blocks, blocks) int32, as Layout.key_blocks. index: as
    Layout.padded_index.
    """

    samples: Tensor
    owner: Tensor
    start: Tensor
    length: Tensor
    count: Tensor
    block_counts: Tensor
    key_blocks: Tensor
    index: Tensor


def pack(
    layout: Layout, waves: Sequence[np.ndarray], *, pinned: bool, chunk: int = 0, window: int = 0
) -> Tensor:
    """The host's buffer of a pass, fp32: its samples, then integers by their bits.

    waves: none where the samples lie on the device already; see `joined`. pinned: in memory that a
    GPU reads without the CPU's help. chunk, window: as Layout.key_blocks.
    """
    size = layout.samples_in_stream if waves else 0
    numbers, blocks = layout.key_blocks(chunk, window)
    parts = [layout.per_row(), numbers, blocks, layout.padded_index()]
    integers = np.concatenate([part.ravel() for part in parts])
    total = size + len(integers)
    buffer = torch.empty(total, pin_memory=True) if pinned else None
    flat = np.empty(total, np.float32) if buffer is None else buffer.numpy()
    flat[:size] = 0
    for start, wave in zip(layout.starts, waves):
        first = int(start) * SAMPLES_PER_FRAME
        flat[first : first + len(wave)] = wave
    flat[size:].view(np.int32)[:] = integers
    return torch.from_numpy(flat) if buffer is None else buffer


def joined(layout: Layout, waves: Sequence[Tensor]) -> Tensor:
    """The samples of a pass, of waveforms on the device, in one kernel."""
    ends = [int(start) * SAMPLES_PER_FRAME for start in layout.starts[1:]]
    ends.append(layout.samples_in_stream)
    place, parts = 0, []
    gap = waves[0].new_zeros(ends[-1], dtype=torch.float32)
    for wave, end in zip(waves, ends, strict=True):
        parts += [wave.float(), gap[: end - place - len(wave)]]
        place = end
    return torch.cat(parts)


def unpack(buffer: Tensor, layout: Layout, samples: Tensor | None = None) -> Packed:
    """What `pack` put into a buffer, wherever that lies now. samples: of `joined`."""
    rows, blocks = layout.rows, layout.rows // BLOCK
    index = len(layout.lengths), int(layout.lengths.max())
    shapes = [(PER_ROW, rows), (2, blocks), (2, blocks, blocks), index]
    sizes = [int(np.prod(shape)) for shape in shapes]
    if samples is None:
        samples = buffer[: layout.samples_in_stream]
        buffer = buffer[layout.samples_in_stream :]
    integers = buffer.view(torch.int32)
    parts = [part.view(shape) for part, shape in zip(integers.split(sizes), shapes, strict=True)]
    per_row, numbers, key_blocks, places = parts
    owner, start, length, count = per_row.unbind(0)
    return Packed(
        samples,
        owner,
        start=start,
        length=length,
        count=count,
        block_counts=numbers,
        key_blocks=key_blocks,
        index=places,
    )
