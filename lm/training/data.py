"""Token shards for training: which utterances there are, how long each is, and reading them.

The reports of an OUTPUT say how long every utterance is before a shard is opened. That is how
lm/training/rows.py knows where each of them will be in a training.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from lm.config import LMError
from tokenizer.errors import UsageError
from tokenizer.storage.token_folder import TokenFolder
from tokenizer.storage.token_shards import TokenUtterance

REPORTS_AT_ONCE = 16


@dataclass(frozen=True)
class TokenShard:
    """One token shard. lengths: (N,) tokens of each of its utterances, in order.

    taken: (N,) bool, which of them belong to this set; the others are held out.
    """

    name: str
    lengths: np.ndarray
    taken: np.ndarray

    @property
    def taken_lengths(self) -> np.ndarray:
        """Tokens of each utterance that belongs to this set."""
        return self.lengths[self.taken]


@dataclass(frozen=True)
class TokenShards:
    """A set of utterances of an OUTPUT: of all its finished shards, those that are taken."""

    folder: TokenFolder
    shards: list[TokenShard]

    @classmethod
    def open(cls, url: str, held_out: float = 0.0) -> "tuple[TokenShards, TokenShards]":
        """(the training set, the held-out set), split by the utterances' keys.

        held_out: share of the utterances. Raises UsageError when it is no OUTPUT or has no tokens.
        """
        folder = TokenFolder.open(url)
        try:
            with ThreadPoolExecutor(REPORTS_AT_ONCE) as pool:
                shards = list(
                    pool.map(lambda name: _read_report(folder, name, held_out), folder.names)
                )
        except UsageError:  # a damaged report, and it says which
            raise
        except Exception as error:  # whatever a store raises, this folder cannot be used
            raise folder.folder.unusable(error) from error
        whole = cls(folder, shards)
        if not whole.num_tokens:
            raise folder.folder.refused(
                "its finished shards have no tokens", "give an OUTPUT with utterances"
            )
        rest = replace(whole, shards=[replace(s, taken=~s.taken) for s in shards])
        return whole, rest

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.folder.codebook_size

    @property
    def tokens_per_second(self) -> float:
        """Tokens of a second of audio."""
        return self.folder.tokens_per_second

    @property
    def tokenizer(self) -> str | None:
        """Fingerprint of the tokenizer that made the tokens; None of imported ones."""
        return self.folder.tokenizer

    @property
    def num_tokens(self) -> int:
        """Tokens of all utterances in the set."""
        return sum(int(shard.taken_lengths.sum()) for shard in self.shards)

    @property
    def num_utterances(self) -> int:
        """Utterances in the set."""
        return sum(int(shard.taken.sum()) for shard in self.shards)

    def num_predicted(self, unscored: int) -> int:
        """Tokens that a model predicts, where it does not predict an utterance's first tokens.

        unscored: how many these are, LMConfig.unscored_tokens.
        """
        return sum(int((shard.taken_lengths - unscored).clip(min=0).sum()) for shard in self.shards)

    def num_shorter(self, unscored: int) -> int:
        """Utterances with tokens, but of no more than `unscored`."""
        lengths = [shard.taken_lengths for shard in self.shards]
        return sum(int(((size > 0) & (size <= unscored)).sum()) for size in lengths)

    def read(self, number: int) -> list[np.ndarray]:
        """A shard's utterances, (T,) tokens each. Raises LMError when it is not as reported."""
        shard = self.shards[number]
        kept, place = [], 0
        for place, utterance in enumerate(self._utterances(shard), start=1):
            tokens = utterance.tokens
            if place > len(shard.lengths) or len(tokens) != shard.lengths[place - 1]:
                raise LMError(f"shard {shard.name} holds other utterances than its report")
            if shard.taken[place - 1]:
                kept.append(tokens)
        if place != len(shard.lengths):
            raise LMError(f"shard {shard.name} holds fewer utterances than its report")
        return kept

    def utterances(self) -> Iterator[tuple[str, np.ndarray]]:
        """(key, (T,) tokens) of all utterances in the set, in order."""
        for shard in self.shards:
            for taken, utterance in zip(shard.taken, self._utterances(shard)):
                if taken:
                    yield utterance.key, utterance.tokens

    def _utterances(self, shard: TokenShard) -> Iterator[TokenUtterance]:
        return self.folder.read(shard.name, with_json=False)


def _read_report(folder: TokenFolder, name: str, held_out: float) -> TokenShard:
    table = folder.report(name, ["status", "num_tokens", "key"])
    ok = np.array(table["status"].to_pylist(), object) == "ok"
    lengths = table["num_tokens"].to_numpy()[ok].astype(np.int32)
    if not held_out:
        return TokenShard(name, lengths, np.ones(len(lengths), bool))
    keys = [key for key, good in zip(table["key"].to_pylist(), ok) if good]
    return TokenShard(name, lengths, np.array([_draw(key) >= held_out for key in keys], bool))


def _draw(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64
