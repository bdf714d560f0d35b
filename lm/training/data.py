"""Token shards, on any filesystem: which utterances there are, and reading them.

An OUTPUT of jobs/tokenize.py or jobs/import_tokens.py. Its reports say how long every utterance is
before a shard is opened, which is how lm/training/rows.py knows where each of them will be in a
training.
"""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b

import fsspec
import numpy as np
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from webdataset.tariterators import group_by_keys, tar_file_expander

from lm.config import LMError

# One request to a store fetches this much; the next waits for it, so it is not small.
READ_AHEAD_BYTES = 16 << 20
REPORTS_AT_ONCE = 16


@dataclass(frozen=True)
class Shard:
    """One token shard. lengths: (N,) tokens of each of its utterances, in order.

    taken: (N,) which of them belong here; the others are held out.
    """

    name: str
    lengths: np.ndarray
    taken: np.ndarray

    @property
    def taken_lengths(self) -> np.ndarray:
        """Tokens of each utterance that belongs here."""
        return self.lengths[self.taken]


@dataclass(frozen=True)
class TokenShards:
    """The shards of an OUTPUT whose report exists, by name.

    tokenizer: fingerprint of what made the tokens; None of imported ones.
    """

    fs: fsspec.AbstractFileSystem
    root: str
    codebook_size: int
    tokenizer: str | None
    tokens_per_second: float
    shards: list[Shard]

    @classmethod
    def open(cls, url: str, held_out: float = 0.0) -> "tuple[TokenShards, TokenShards]":
        """(what is to be learnt from, what is held out), by the utterances' keys.

        held_out: share of the utterances. Raises LMError when it is no OUTPUT or has no tokens.
        """
        try:
            fs, root = url_to_fs(url)
            root = root.rstrip("/")
            record = _record(fs, root)
            names = _finished(fs, root)
            with ThreadPoolExecutor(REPORTS_AT_ONCE) as pool:
                reports = list(
                    pool.map(lambda name: _report(fs, root, name=name, held_out=held_out), names)
                )
        except LMError:
            raise
        except Exception as error:  # whatever a store raises, these are no tokens
            text = " ".join(str(error).split())
            raise LMError(f"{type(error).__name__}: {text}"[:300]) from error
        shards = [Shard(name, lengths, ~held) for name, (lengths, held) in zip(names, reports)]
        size = int(record["codebook_size"])
        speed = float(record.get("tokens_per_second") or 50)
        whole = cls(fs, root, size, record.get("tokenizer"), speed, shards)
        if not whole.num_tokens:
            raise LMError("its finished shards have no tokens")
        rest = replace(whole, shards=[replace(s, taken=~s.taken) for s in shards])
        return whole, rest

    @property
    def num_tokens(self) -> int:
        """Over all utterances that belong here."""
        return sum(int(shard.taken_lengths.sum()) for shard in self.shards)

    @property
    def num_utterances(self) -> int:
        """All that belong here."""
        return sum(int(shard.taken.sum()) for shard in self.shards)

    def read(self, number: int) -> list[np.ndarray]:
        """A shard's utterances, (T,) tokens each. Raises LMError when it is not as reported."""
        shard = self.shards[number]
        kept, place = [], 0
        for place, (_, tokens) in enumerate(self._members(shard.name), start=1):
            if place > len(shard.lengths) or len(tokens) != shard.lengths[place - 1]:
                raise LMError(f"shard {shard.name} holds other utterances than its report")
            if shard.taken[place - 1]:
                kept.append(tokens)
        if place != len(shard.lengths):
            raise LMError(f"shard {shard.name} holds fewer utterances than its report")
        return kept

    def utterances(self) -> Iterator[tuple[str, np.ndarray]]:
        """(key, (T,) tokens) of all that belong here, in order."""
        for shard in self.shards:
            for taken, utterance in zip(shard.taken, self._members(shard.name)):
                if taken:
                    yield utterance

    def _members(self, name: str) -> Iterator[tuple[str, np.ndarray]]:
        # webdataset's own opener would run `pipe:` URLs, and its decoder unpickle members.
        path = f"{self.root}/shards/{name}.tar"
        options = {"block_size": READ_AHEAD_BYTES, "cache_type": "readahead"}
        with self.fs.open(path, "rb", **options) as stream:
            source = [{"url": name, "stream": stream}]
            members = tar_file_expander(source, select_files=lambda n: n.endswith(".tokens.npy"))
            for sample in group_by_keys(members):
                file = io.BytesIO(sample["tokens.npy"])
                tokens = np.load(file, allow_pickle=False)
                if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
                    raise LMError(f"shard {name}: {sample['__key__']} holds no tokens")
                if len(tokens) and not 0 <= int(tokens.min()) <= tokens.max() < self.codebook_size:
                    raise LMError(
                        f"shard {name}: {sample['__key__']} has a token outside the codebook of "
                        f"{self.codebook_size:,}"
                    )
                yield sample["__key__"], tokens


def _record(fs: fsspec.AbstractFileSystem, root: str) -> dict:
    try:
        record = json.loads(fs.cat_file(f"{root}/run.json"))
        if int(record["codebook_size"]) < 1:
            raise ValueError
    except FileNotFoundError as error:
        raise LMError("it has no run.json: it is no OUTPUT of jobs/tokenize.py") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LMError("its run.json does not say how many codes there are") from error
    return record


def _finished(fs: fsspec.AbstractFileSystem, root: str) -> list[str]:
    """Sorted names of the shards that have a report."""
    base = f"{root}/reports"
    files = fs.find(base) if fs.exists(base) else []
    prefix = fs._strip_protocol(base).rstrip("/") + "/"
    names = [f.removeprefix(prefix) for f in files if f.endswith(".parquet")]
    if not names:
        raise LMError("it has no finished shard")
    return sorted(name.removesuffix(".parquet") for name in names)


def _report(
    fs: fsspec.AbstractFileSystem, root: str, name: str, held_out: float
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) lengths of a shard's utterances, and (N,) which of them are held out."""
    with fs.open(f"{root}/reports/{name}.parquet", "rb") as file:
        table = pq.read_table(file, columns=["status", "num_tokens", "key"])
    ok = np.array(table["status"].to_pylist(), object) == "ok"
    lengths = table["num_tokens"].to_numpy()[ok].astype(np.int32)
    if not held_out:
        return lengths, np.zeros(len(lengths), bool)
    keys = [key for key, good in zip(table["key"].to_pylist(), ok) if good]
    return lengths, np.array([_draw(key) < held_out for key in keys], bool)


def _draw(key: str) -> float:
    """A number from 0 to 1 that a key always has, whatever else is in the shards."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) / 2**64
