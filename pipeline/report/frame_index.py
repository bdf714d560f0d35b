"""Where in a few shards each of some codes occurs: an index of frames, made while shards stream.

A frame gets a random number, and of each code the frames with the least numbers are kept. That is
reservoir sampling (Vitter 1985) with random keys: every frame of a code is as likely as any other,
and what is kept does not grow with what was read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.report.overview import DrawnUtterance
from tokenizer.storage.token_folder import TokenFolder

# Tokens that are looked at together.
TOKENS_AT_ONCE = 1 << 20
# Utterances, and tokens of each, that a language model is shown.
PREDICTED, MOST_PREDICTED = 64, 1024


class FramePlace(NamedTuple):
    """A frame: the number of its utterance in the index, and of the frame in it."""

    utterance: int
    frame: int


class FrameIndex:
    """Up to `each` frames of some codes, drawn evenly from all frames that were added."""

    def __init__(self, codes: Iterable[int], *, each: int, seed: int) -> None:
        """codes: the codes to look for, none twice."""
        self.codes = np.array(sorted(codes), np.int64)
        self.each, self.random = each, np.random.default_rng(seed)
        size = (len(self.codes), each)
        self.priority = np.full(size, np.inf)
        self.utterance, self.frame = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def add(self, tokens: np.ndarray, utterance: np.ndarray, frame: np.ndarray) -> None:
        """(n,) each: of so many frames the code, the number of the utterance, and of the frame."""
        if not len(self.codes):
            return
        priority = self.random.random(len(tokens))
        row = np.searchsorted(self.codes, tokens).clip(max=len(self.codes) - 1)
        kept = (self.codes[row] == tokens) & (priority < self.priority.max(1)[row])
        row, priority = row[kept], priority[kept]
        utterance, frame = utterance[kept], frame[kept]
        order = np.lexsort((priority, row))
        starts = np.searchsorted(row[order], np.arange(len(self.codes)))
        ends = np.append(starts[1:], len(order))
        for code, (start, end) in enumerate(zip(starts, ends)):
            best = order[start : min(end, start + self.each)]
            pairs = (
                (self.priority, priority),
                (self.utterance, utterance),
                (self.frame, frame),
            )
            joined = [np.append(old[code], new[best]) for old, new in pairs]
            least = np.argsort(joined[0])[: self.each]
            for (old, _), values in zip(pairs, joined):
                old[code] = values[least]

    def places(self, code: int) -> list[FramePlace]:
        """The frames that were drawn of a code, in a random order; [] of one not looked for."""
        rows = np.flatnonzero(self.codes == code)
        if not len(rows):
            return []
        there = np.isfinite(self.priority[rows[0]])
        pair = (self.utterance[rows[0]][there].tolist(), self.frame[rows[0]][there].tolist())
        return [FramePlace(*place) for place in zip(*pair)]

    def utterances(self) -> set[int]:
        """Numbers of the utterances that hold a frame."""
        return set(self.utterance[np.isfinite(self.priority)].tolist())


@dataclass
class TokensRead:
    """What one pass over a few token shards has found.

    index: frames of the codes that were looked for. names: (shard, key) of each utterance in it, by
    its number. tokens: (T,) of the utterances that were asked for, by shard and key. some: tokens
    of utterances drawn evenly, for a language model. frames: that were read.
    """

    index: FrameIndex
    names: dict[int, tuple[str, str]]
    tokens: dict[tuple[str, str], np.ndarray]
    some: list[np.ndarray]
    frames: int = 0


def read_shards(
    folder: TokenFolder, drawn: list[DrawnUtterance], *, codes: list[int], each: int, seed: int
) -> TokensRead:
    """One pass over the token shards that hold the drawn utterances.

    codes: that are looked for. each: frames to find of each. Raises UsageError as
    `TokenFolder.read` does.
    """
    wanted = {(utterance.shard, utterance.key) for utterance in drawn}
    read = TokensRead(FrameIndex(codes, each=each, seed=seed), {}, tokens={}, some=[])
    random = np.random.default_rng(seed + 1)
    some: list[tuple[float, np.ndarray]] = []
    block: list[np.ndarray] = []
    number = 0

    def take_block() -> None:
        lengths = [len(tokens) for tokens in block]
        first = number - len(block)
        read.index.add(
            np.concatenate(block),
            np.repeat(np.arange(first, number), lengths),
            np.concatenate([np.arange(length) for length in lengths]),
        )
        read.frames += sum(lengths)
        block.clear()
        kept = read.index.utterances()
        read.names = {n: name for n, name in read.names.items() if n in kept}

    for shard in sorted({utterance.shard for utterance in drawn}):
        size = 0
        for key, tokens, _ in folder.read(shard, with_json=False):
            if (shard, key) in wanted:
                read.tokens[shard, key] = tokens
            read.names[number] = (shard, key)
            block.append(tokens)
            number, size = number + 1, size + len(tokens)
            priority = float(random.random())
            if len(some) < PREDICTED or priority < some[-1][0]:
                some.append((priority, tokens[:MOST_PREDICTED]))
                some = sorted(some, key=lambda pair: pair[0])[:PREDICTED]
            if size >= TOKENS_AT_ONCE:
                take_block()
                size = 0
        if block:
            take_block()
    read.some = [tokens for _, tokens in some if len(tokens)]
    return read


def codes_to_show(code_counts: np.ndarray, most: int) -> list[int]:
    """Codes from the most used to the rarest, evenly spread over the ranks of those in use."""
    ranked = np.argsort(-code_counts, kind="stable")[: int((code_counts > 0).sum())]
    if not len(ranked):
        return []
    # Up to the 90th hundredth: the rarest codes occur once or twice, and have no eight snippets.
    places = np.linspace(0, 0.9 * (len(ranked) - 1), min(most, len(ranked))).round()
    return [int(ranked[place]) for place in dict.fromkeys(places.astype(int).tolist())]
