"""Utterances → rows of one length to train on, in an order that one number finds again.

A row is T positions of a stream in which utterances lie end to end, each of them one chunk of START
and then its tokens, filled with PAD to whole chunks. Where a row ends within an utterance, the next
goes on without a START: the piece's first chunk is there to be seen and is predicted by nothing.

The order of all rows is a matter of the seed alone, and not of how many processes share a batch:
* an epoch is all shards, shuffled, in *blocks* of neighbours that are read together; a block's
  utterances are shuffled and its rows cut from their stream;
* *lanes* take blocks one after another, whichever is done first the next; row g of the training is
  the next one of lane g mod L, so that a batch mixes all lanes, and a process reads of a data lake
  only the blocks of the lanes its rows come from. Few data have one lane and stay in memory;
* batch s is rows s R up to (s + 1) R, of which a process has every W-th.
Since the reports tell all lengths, blocks and lanes are known without opening a shard: the number
of rows drawn is the exact position.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lm.config import PAD, START, LMError
from lm.training.data import TokenShards

# A block of these, 22 hours of speech at 50 a second, holds 32 MB while its rows are drawn.
BLOCK_TOKENS = 4_000_000
# Lanes of this many blocks each an epoch: towards its end few lanes are in the next already.
BLOCKS_PER_LANE = 8
MOST_LANES = 32
# Fewer tokens than this are read once and kept: 128 MB.
KEPT_TOKENS = 64_000_000


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a global batch is cut. rows: in it. row_tokens: positions of a row.

    accumulate: parts of a process's share, one after another. Raises LMError when the chunk does
    not divide the row, or processes and parts the rows.
    """

    rows: int
    row_tokens: int
    chunk: int
    seed: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def __post_init__(self):
        if self.row_tokens % self.chunk or self.row_tokens < 2 * self.chunk:
            raise LMError(f"rows of {self.row_tokens} tokens are not whole chunks of {self.chunk}")
        if self.rows % (self.accumulate * self.world):
            raise LMError(
                f"{self.rows} rows are not shared evenly by {self.world} processes and "
                f"{self.accumulate} parts"
            )

    def rows_of(self, batch: int) -> np.ndarray:
        """Numbers, over the whole training, of the rows of this process's `batch`-th part."""
        step, part = divmod(batch, self.accumulate)
        own = step * self.rows + np.arange(self.rank, self.rows, self.world)
        return np.split(own, self.accumulate)[part]


class TokenStream:
    """A process's batches (tokens (B, T) int64, utterance (B, T) int32), without end.

    Its state is how many rows all processes have drawn together: a stream that loads it goes on
    with the very rows that come next.
    """

    def __init__(self, tokens: TokenShards, batching: Batching, workers: int = 0) -> None:
        """workers: processes that read; 0 reads in this one."""
        self.tokens, self.batching, self.workers = tokens, batching, workers
        self.drawn = 0
        self._batches: Iterator | None = None

    def __iter__(self):
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next part of a batch."""
        if self._batches is None:
            # Spawned, not forked: the training process has Ray's and OpenMP's threads.
            loader = DataLoader(
                _Batches(self.tokens, self.batching, self.drawn),
                batch_size=None,
                num_workers=self.workers,
                prefetch_factor=8 if self.workers else None,
                multiprocessing_context="spawn" if self.workers else None,
            )
            self._batches = iter(loader)
        batch = next(self._batches)
        self.drawn += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """{"rows": drawn by all processes}; to be taken between two whole batches."""
        return {"rows": self.drawn // self.batching.accumulate * self.batching.rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there. Raises LMError for a position between two batches of these rows."""
        steps, between = divmod(state["rows"], self.batching.rows)
        if between:
            raise LMError(f"{state['rows']} rows are no whole batches of {self.batching.rows}")
        self.drawn, self._batches = steps * self.batching.accumulate, None


class _Batches(IterableDataset):
    """From batch `first` on; worker k of n has every n-th, as DataLoader takes them in turn."""

    def __init__(self, tokens: TokenShards, batching: Batching, first: int) -> None:
        self.tokens, self.batching, self.first = tokens, batching, first

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        batch, every = self.first, 1
        if worker:
            batch, every = batch + worker.id, worker.num_workers
        rows = _Rows(self.tokens, self.batching)
        while True:
            yield rows.batch(self.batching.rows_of(batch))
            batch += every


class _Rows:
    """The rows of a training by their numbers, asked for in rising order."""

    def __init__(self, tokens: TokenShards, batching: Batching) -> None:
        self.tokens, self.batching = tokens, batching
        self.positions = np.array(
            [_positions(shard.taken_lengths, batching.chunk).sum() for shard in tokens.shards]
        )
        lanes, most = 1, int(self.positions.sum()) // BLOCK_TOKENS // BLOCKS_PER_LANE
        while 2 * lanes <= min(most, MOST_LANES) and batching.rows % (2 * lanes) == 0:
            lanes *= 2
        # Of each lane: the block it is in, and the turns at which that begins and ends.
        self.blocks: list = [None] * lanes
        self.begins, self.ends = [0] * lanes, [0] * lanes
        self.order = self._order()
        self.opened: dict[int, tuple[tuple, np.ndarray, np.ndarray]] = {}
        self.kept: dict[int, list[np.ndarray]] | None = (
            {} if tokens.num_tokens <= KEPT_TOKENS else None
        )

    def batch(self, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens (B, T) int64 and utterance (B, T) int32 of these rows."""
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

    def _order(self) -> Iterator[tuple[tuple, int]]:
        """((epoch, number, its shards), its rows) of all blocks, for ever."""
        epoch = 0
        filled = np.flatnonzero(self.positions)
        while True:
            random = np.random.default_rng([self.batching.seed, epoch])
            block, positions, number = [], 0, 0
            shuffled = random.permutation(filled).tolist()
            for place, shard in enumerate(shuffled, start=1):
                block.append(shard)
                positions += int(self.positions[shard])
                if positions >= BLOCK_TOKENS or place == len(shuffled):
                    rows = -(-positions // self.batching.row_tokens)
                    yield (epoch, number, tuple(block)), rows
                    block, positions, number = [], 0, number + 1
            epoch += 1

    def _open(self, block: tuple) -> tuple[np.ndarray, np.ndarray]:
        """(N, T) tokens and utterances of a block's rows."""
        epoch, number, shards = block
        utterances = [tokens for shard in shards for tokens in self._read(shard)]
        random = np.random.default_rng([self.batching.seed, epoch, number])
        shuffled = [utterances[i] for i in random.permutation(len(utterances))]
        tokens, utterance = lay_out(shuffled, self.batching.chunk)
        length = self.batching.row_tokens
        over = -len(tokens) % length
        tokens = np.pad(tokens, (0, over), constant_values=PAD).reshape(-1, length)
        utterance = np.pad(utterance, (0, over), constant_values=-1).reshape(-1, length)
        return tokens, np.where(utterance < 0, -1, utterance - utterance[:, :1])

    def _read(self, shard: int) -> list[np.ndarray]:
        if self.kept is None:
            return self.tokens.read(shard)
        if shard not in self.kept:
            self.kept[shard] = self.tokens.read(shard)
        return self.kept[shard]


def validation_batches(
    tokens: TokenShards, chunk: int, row_tokens: int, rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """All utterances in order, once: batches of at most `rows` rows, each of `row_tokens`.

    None is cut that fits into a row; of a longer one each further piece begins with the last chunk
    of the one before, so that every token is predicted once.
    """
    batch, row, filled = [], [], 0
    for _, own in tokens.utterances():
        stream, _ = lay_out([own], chunk)
        pieces = range(0, max(1, len(stream) - chunk), row_tokens - chunk)
        for piece in (stream[start : start + row_tokens] for start in pieces):
            if filled + len(piece) > row_tokens:
                batch.append(row)
                row, filled = [], 0
                if len(batch) == rows:
                    yield _padded(batch, row_tokens)
                    batch = []
            row.append(piece)
            filled += len(piece)
    yield _padded([*batch, row], row_tokens)


def lay_out(utterances: list[np.ndarray], chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int32 of utterances end to end, and (N,) int32 which of them a position belongs to.

    Each is a chunk of START, its tokens, and PAD to whole chunks.
    """
    places = _positions(np.array([len(own) for own in utterances], np.int64), chunk)
    tokens = np.full(places.sum(), PAD, np.int32)
    for own, end, length in zip(utterances, np.cumsum(places), places):
        begin = end - length
        tokens[begin : begin + chunk] = START
        tokens[begin + chunk : begin + chunk + len(own)] = own
    return tokens, np.repeat(np.arange(len(utterances), dtype=np.int32), places)


def _positions(lengths: np.ndarray, chunk: int) -> np.ndarray:
    return chunk - (-lengths.astype(np.int64) // chunk) * chunk


def _padded(batch: list[list[np.ndarray]], row_tokens: int) -> tuple[Tensor, Tensor]:
    tokens = np.full((len(batch), row_tokens), PAD, np.int64)
    utterance = np.full((len(batch), row_tokens), -1, np.int32)
    for number, pieces in enumerate(batch):
        if pieces:
            filled = sum(map(len, pieces))
            tokens[number, :filled] = np.concatenate(pieces)
            utterance[number, :filled] = np.repeat(np.arange(len(pieces)), [*map(len, pieces)])
    return torch.from_numpy(tokens), torch.from_numpy(utterance)
