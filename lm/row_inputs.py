"""The input vectors of rows that grow chunk by chunk, side by side, in generation.

A decompressor keeps a state of each row. The states of all rows lie in one batch, so that a step
runs it once, however many rows there are; only rows that have just begun run apart.
"""

import numpy as np
import torch
from torch import Tensor

from lm.config import START
from lm.embeddings import TokenInputs
from tokenizer.codec.focal import State


class RowInputs:
    """The vectors of the next chunks of each row, and the decompressor's state between them."""

    def __init__(self, inputs: TokenInputs, rows: int) -> None:
        """inputs: the model's, for inference. rows: how many there are."""
        self.inputs = inputs
        self.begun = [False] * rows
        # Of all rows; what it holds of a row that has not begun is not used.
        self.state: list[State] | None = None

    def vectors(self, tokens: Tensor, first: list[int] | None = None) -> Tensor:
        """(B, T) the next tokens of each row, whole chunks → (B, T, width).

        A row that has not begun may start with PAD, whose vector is zero, and one chunk of START.
        first: the place of each row's first token after them; None where all are tokens.
        """
        if all(self.begun):
            return self._of_rows(tokens, list(range(len(tokens))))
        first = [0] * len(tokens) if first is None else first
        groups: dict[tuple[bool, int], list[int]] = {}
        for row, key in enumerate(zip(self.begun, first)):
            groups.setdefault(key, []).append(row)
        x = torch.zeros(*tokens.shape, self.inputs.config.width, device=tokens.device)
        for (_, start), rows in groups.items():
            if start < tokens.shape[1]:
                index = torch.from_numpy(np.array(rows)).to(tokens.device)
                x[index, start:] = self._of_rows(tokens[index, start:], rows)
                for row in rows:
                    self.begun[row] = True
        if self.inputs.config.start:
            chunk = self.inputs.start.to(x.dtype)
            chunks = chunk.repeat(tokens.shape[1] // len(chunk), 1)
            x = torch.where((tokens == START)[..., None], chunks, x)
        return x

    def _of_rows(self, tokens: Tensor, rows: list[int]) -> Tensor:
        """(N, T) tokens of these rows, which have all begun or all begin here → (N, T, width)."""
        if self.inputs.config.inputs != "decompressor":
            return self.inputs.of_tokens(tokens)
        whole, index = len(rows) == len(self.begun), None
        if not whole:
            index = torch.from_numpy(np.array(rows)).to(tokens.device)
        state = self.state if self.begun[rows[0]] else None
        if state is not None and index is not None:
            state = [[past[index] for past in layer] for layer in state]
        features, after = self.inputs.decompress(tokens, state)
        if index is None:
            self.state = after
        else:
            self._put(after, index)
        return self.inputs.from_features(features)

    def _put(self, state: list[State], rows: Tensor) -> None:
        """Write the state of these rows into that of all rows."""
        if self.state is None:
            count = len(self.begun)
            self.state = [
                [past.new_zeros(count, *past.shape[1:]) for past in layer] for layer in state
            ]
        for layer, part in zip(self.state, state):
            for past, values in zip(layer, part):
                past[rows] = values
