"""Utterances of different lengths, packed into one matrix of frames with no padding between them.

Most of a transformer works on single frames. That part runs on the packed rows: no work is spent on
padding, and padding cannot change a result. Attention and the positional convolution look along
time. They get the utterances as `Group`s: one by one on a CPU, where a small matrix stays in cache,
and as one padded batch on a GPU where nothing can be compiled. Where it can, gpu/ needs no padding.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass
class Group:
    """Consecutive utterances of a packed matrix that are padded to one batch (B, T, D).

    start, stop: their rows of the packed matrix. lengths: frames of each utterance.
    index: (stop - start,), each row's place in the flattened padded batch; None without padding.
    """

    start: int
    stop: int
    lengths: list[int]
    index: Tensor | None

    @property
    def frames(self) -> int:
        """The longest utterance's frames: the padded length T."""
        return max(self.lengths)

    def pad(self, rows: Tensor) -> Tensor:
        """(N, D) packed → (B, T, D), zeros after each utterance's end."""
        packed = rows[self.start : self.stop]
        shape = (len(self.lengths), self.frames, rows.shape[-1])
        if self.index is None:
            return packed.view(shape)
        padded = rows.new_zeros(shape[0] * shape[1], shape[2])
        return padded.index_copy_(0, self.index, packed).view(shape)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, T, D) → (stop - start, D) packed."""
        rows = padded.reshape(-1, padded.shape[-1])
        return rows if self.index is None else rows[self.index]

    @cached_property
    def frame_mask(self) -> Tensor | None:
        """(B, T), True at frames and False at padding; None without padding."""
        if self.index is None:
            return None
        count, device = len(self.lengths) * self.frames, self.index.device
        mask = torch.zeros(count, dtype=torch.bool, device=device)
        return mask.index_fill_(0, self.index, True).view(-1, self.frames)


def groups_of(
    lengths: list[int], device: torch.device, per_group: int | None = None
) -> list[Group]:
    """Split packed utterances into groups.

    lengths: frames of each utterance, in packed order.
    per_group: utterances in a group; None takes one on a CPU and all of them on a GPU.
    """
    per_group = per_group or (1 if device.type == "cpu" else len(lengths))
    groups, start = [], 0
    for first in range(0, len(lengths), per_group):
        members = lengths[first : first + per_group]
        longest = max(members)
        index = None
        if min(members) != longest:
            places = [torch.arange(n) + i * longest for i, n in enumerate(members)]
            index = torch.cat(places).to(device)
        groups.append(Group(start, start + sum(members), lengths=members, index=index))
        start += sum(members)
    return groups
