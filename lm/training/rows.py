"""Utterances → rows of equal length to train on, in an order that is known from the seed.

Utterances lie end to end in a stream: each is one chunk of START and then its tokens, filled with
PAD to whole chunks. A row is T positions of the stream. A row that begins within an utterance has
no START; its first chunk is context only, and no position predicts it. For a model without START
that holds for every utterance, and one of a single chunk, which has nothing to predict, is left
out.

The order of all rows depends on the seed, not on the number of processes:
* An epoch is all shards, shuffled and grouped into *blocks* of neighbours that are read together.
  The utterances of a block are shuffled, and its rows are cut from their stream.
* There are L *lanes*. Each takes the next block as soon as it has finished one. Row g of the
  training is the next row of lane g mod L, so a batch mixes all lanes, and a process reads only
  the blocks of its own lanes. A small data set has one lane and stays in memory.
* Batch s is rows s R to (s + 1) R - 1; each of W processes has every W-th of them.
The reports hold the length of every utterance, so blocks and lanes are known before any shard is
opened, and the number of rows drawn is the exact position.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm.config import PAD, START, LMConfig, LMError
from lm.training.data import TokenShards
from lm.training.settings import LMTrainingSettings
from tokenizer.training.stream import BatchStream

# Tokens of a block: 22 hours of speech at 50 a second, 32 MB while its rows are drawn.
BLOCK_TOKENS = 4_000_000
# Blocks of a lane in an epoch, so that near its end only few lanes are in the next epoch already.
BLOCKS_PER_LANE = 8
MAX_LANES = 32
# Data sets with fewer tokens are read once and stay in memory: 128 MB.
KEPT_TOKENS = 64_000_000


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """How a global batch is cut into rows. rows: of a batch. row_tokens: positions of a row.

    accumulate: parts of a process's share. rank, world: number of this process, and of all. start:
    utterances begin with a chunk of START.
    Raises LMError when a row is not whole chunks, or processes and parts do not divide the rows.
    """

    rows: int
    row_tokens: int
    chunk: int
    seed: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    start: bool = True

    @classmethod
    def of(cls, settings: LMTrainingSettings, config: LMConfig, rank: int = 0) -> "RowLayout":
        """The layout of a training for one of its processes. Raises LMError as above."""
        return cls(
            rows=settings.rows,
            row_tokens=settings.row_tokens,
            chunk=config.chunk,
            start=config.start,
            seed=settings.seed,
            accumulate=settings.accumulate,
            rank=rank,
            world=settings.workers,
        )

    def __post_init__(self) -> None:
        if self.row_tokens % self.chunk or self.row_tokens < 2 * self.chunk:
            raise LMError(f"rows of {self.row_tokens} tokens are not whole chunks of {self.chunk}")
        if self.rows % (self.accumulate * self.world):
            raise LMError(
                f"{self.rows} rows are not shared evenly by {self.world} processes and "
                f"{self.accumulate} parts"
            )

    def rows_of(self, batch: int) -> np.ndarray:
        """The numbers of the rows in this process's `batch`-th part, over the whole training."""
        step, part = divmod(batch, self.accumulate)
        rows = step * self.rows + np.arange(self.rank, self.rows, self.world)
        return np.split(rows, self.accumulate)[part]


class RowStream(BatchStream):
    """A process's batches (tokens (B, T) int64, utterance (B, T) int32), without end.

    Its state is the number of rows that all processes have drawn together.
    """

    def __init__(self, tokens: TokenShards, layout: RowLayout, readers: int = 0) -> None:
        """readers: processes that read; 0 reads in this one."""
        super().__init__(_RowBatches(tokens, layout), readers)
        self.layout = layout

    def state_dict(self) -> dict[str, int]:
        """{"rows": drawn by all processes}; call it between two whole batches."""
        return {"rows": self.drawn // self.layout.accumulate * self.layout.rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from there. Raises LMError for a position within a batch."""
        steps, within = divmod(state["rows"], self.layout.rows)
        if within:
            raise LMError(f"{state['rows']} rows are not whole batches of {self.layout.rows}")
        self.move_to(steps * self.layout.accumulate)


class _RowBatches:
    """The parts of batches, by number; a reader process gets a copy of this."""

    def __init__(self, tokens: TokenShards, layout: RowLayout) -> None:
        self.tokens, self.layout = tokens, layout

    def numbered(self, first: int, every: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As NumberedBatches says."""
        rows = _Rows(self.tokens, self.layout)
        for batch in itertools.count(first, every):
            yield rows.batch(self.layout.rows_of(batch))


# Epoch, number within the epoch, and its shards.
_Block = tuple[int, int, tuple[int, ...]]


class _Rows:
    """The rows of a training by their numbers, which have to ascend."""

    def __init__(self, tokens: TokenShards, layout: RowLayout) -> None:
        self.tokens, self.layout = tokens, layout
        self.positions = np.array(
            [
                positions(shard.taken_lengths, layout.chunk, layout.start).sum()
                for shard in tokens.shards
            ]
        )
        lanes, possible = 1, int(self.positions.sum()) // BLOCK_TOKENS // BLOCKS_PER_LANE
        while 2 * lanes <= min(possible, MAX_LANES) and layout.rows % (2 * lanes) == 0:
            lanes *= 2
        # For each lane: its current block, and the turns at which the block begins and ends.
        self.blocks: list[_Block] = [(-1, 0, ())] * lanes
        self.begins, self.ends = [0] * lanes, [0] * lanes
        self.order = self._order()
        self.opened: dict[int, tuple[_Block, np.ndarray, np.ndarray]] = {}
        self.kept: dict[int, list[np.ndarray]] | None = (
            {} if tokens.num_tokens <= KEPT_TOKENS else None
        )

    def batch(self, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) int64 and utterance (B, T) int32 of the rows with these numbers."""
        rows = [self._row(int(number)) for number in numbers]
        tokens, utterance = (np.stack(part) for part in zip(*rows))
        return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(utterance)

    def _row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        turn, lane = divmod(number, len(self.blocks))
        while (first := min(self.ends)) <= turn:
            done = self.ends.index(first)
            self.blocks[done], rows = next(self.order)
            self.begins[done], self.ends[done] = first, first + rows
        block = self.blocks[lane]
        if lane not in self.opened or self.opened[lane][0] != block:
            self.opened[lane] = (block, *self._open(block))
        _, tokens, utterance = self.opened[lane]
        row = turn - self.begins[lane]
        return tokens[row], utterance[row]

    def _order(self) -> Iterator[tuple[_Block, int]]:
        """(block, its number of rows) for all blocks, without end."""
        epoch = 0
        filled = np.flatnonzero(self.positions)
        while True:
            random = np.random.default_rng([self.layout.seed, epoch])
            block: list[int] = []
            positions, number = 0, 0
            shuffled = random.permutation(filled).tolist()
            for place, shard in enumerate(shuffled, start=1):
                block.append(shard)
                positions += int(self.positions[shard])
                if positions >= BLOCK_TOKENS or place == len(shuffled):
                    rows = -(-positions // self.layout.row_tokens)
                    yield (epoch, number, tuple(block)), rows
                    block, positions, number = [], 0, number + 1
            epoch += 1

    def _open(self, block: _Block) -> tuple[np.ndarray, np.ndarray]:
        """(N, T) tokens and (N, T) utterance numbers of a block's rows."""
        epoch, number, shards = block
        utterances = [tokens for shard in shards for tokens in self._read(shard)]
        random = np.random.default_rng([self.layout.seed, epoch, number])
        shuffled = [utterances[i] for i in random.permutation(len(utterances))]
        tokens, utterance = lay_out(shuffled, self.layout.chunk, self.layout.start)
        length = self.layout.row_tokens
        padding = -len(tokens) % length
        tokens = np.pad(tokens, (0, padding), constant_values=PAD).reshape(-1, length)
        utterance = np.pad(utterance, (0, padding), constant_values=-1).reshape(-1, length)
        return tokens, np.where(utterance < 0, -1, utterance - utterance[:, :1])

    def _read(self, shard: int) -> list[np.ndarray]:
        if self.kept is None:
            return self.tokens.read(shard)
        if shard not in self.kept:
            self.kept[shard] = self.tokens.read(shard)
        return self.kept[shard]


def validation_batches(
    tokens: TokenShards, config: LMConfig, row_tokens: int, rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """All utterances in order, once: batches of at most `rows` rows, each of `row_tokens`.

    An utterance that fits into a row is not cut. Of a longer one, each further piece begins with
    the last chunk of the piece before, so that every token is predicted exactly once.
    """
    batch: list[list[np.ndarray]] = []
    row: list[np.ndarray] = []
    filled, chunk = 0, config.chunk
    for _, utterance in tokens.utterances():
        stream, _ = lay_out([utterance], chunk, config.start)
        starts = range(0, max(1, len(stream) - chunk), row_tokens - chunk)
        for piece in (stream[start : start + row_tokens] for start in starts):
            if filled + len(piece) > row_tokens:
                batch.append(row)
                row, filled = [], 0
                if len(batch) == rows:
                    yield _padded(batch, row_tokens)
                    batch = []
            row.append(piece)
            filled += len(piece)
    yield _padded([*batch, row], row_tokens)


def lay_out(
    utterances: list[np.ndarray], chunk: int, start: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int32 tokens of utterances end to end, and (N,) int32 the utterance of each position.

    Each utterance is a chunk of START if `start`, its tokens, and PAD to whole chunks.
    """
    lengths = np.array([len(tokens) for tokens in utterances], np.int64)
    sizes = positions(lengths, chunk, start)
    stream = np.full(sizes.sum(), PAD, np.int32)
    for tokens, end, size in zip(utterances, np.cumsum(sizes), sizes):
        row, before = stream[end - size : end], chunk if start else 0
        row[:before] = START
        if size:
            row[before : before + len(tokens)] = tokens
    return stream, np.repeat(np.arange(len(utterances), dtype=np.int32), sizes)


def positions(lengths: np.ndarray, chunk: int, start: bool = True) -> np.ndarray:
    """How many positions utterances of these lengths take: none where nothing can be predicted."""
    sizes = -(-lengths.astype(np.int64) // chunk) * chunk
    return sizes + chunk if start else np.where(sizes > chunk, sizes, 0)


def _padded(batch: list[list[np.ndarray]], row_tokens: int) -> tuple[Tensor, Tensor]:
    tokens = np.full((len(batch), row_tokens), PAD, np.int64)
    utterance = np.full((len(batch), row_tokens), -1, np.int32)
    for number, pieces in enumerate(batch):
        if pieces:
            filled = sum(map(len, pieces))
            tokens[number, :filled] = np.concatenate(pieces)
            utterance[number, :filled] = np.repeat(np.arange(len(pieces)), [*map(len, pieces)])
    return torch.from_numpy(tokens), torch.from_numpy(utterance)
