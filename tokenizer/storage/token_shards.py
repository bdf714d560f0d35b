"""Token shards, the contract between pipeline and lm: their one writer, reader and check.

An OUTPUT of jobs/tokenize.py or jobs/import_tokens.py is a folder:

    run.json               tokenizer fingerprint (null for imported tokens), codebook size, settings
    shards/NAME.tar        KEY.tokens.npy, (T,) uint16, or uint32 over 65,536 codes; and KEY.json
    reports/NAME.parquet   a row per input sample; a shard is finished when its report exists

Nothing here imports PyTorch or Ray: a shard task is a small process.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import READ_AHEAD, Folder
from tokenizer.storage.tars import SMALL_MEMBERS, Readable, TarWriter, read_members

TOKENS_ENDING, JSON_ENDING = ".tokens.npy", ".json"
REMEDY = "give an OUTPUT of jobs/tokenize.py or jobs/import_tokens.py"
# Of an OUTPUT whose run.json does not say.
TOKENS_PER_SECOND = 50.0


class TokenShardError(UsageError):
    """A token shard that is not one, or not what its report says."""


class TokenShardWriter:
    """Writes a token shard to a local file: KEY.tokens.npy, then KEY.json, of each utterance."""

    def __init__(self, path: Path, *, shard: str, codebook_size: int) -> None:
        """shard: its NAME, which every KEY.json repeats."""
        self._tar, self.shard = TarWriter(path), shard
        self.dtype = np.uint16 if codebook_size <= 1 << 16 else np.uint32

    def add(
        self,
        key: str,
        tokens: np.ndarray,
        *,
        duration_s: float,
        sample_rate: int,
        metadata: object,
        metadata_error: str | None = None,
    ) -> None:
        """Append an utterance. tokens: (T,) whole numbers inside the codebook.

        sample_rate: of the source. metadata: the sample's own json; metadata_error: why there is
        none, if it had some that could not be read.
        """
        about = {
            "duration_s": duration_s,
            "sample_rate": sample_rate,
            "num_tokens": len(tokens),
            "shard": self.shard,
            "metadata": metadata,
        }
        if metadata_error:
            about["metadata_error"] = metadata_error
        array = io.BytesIO()
        np.save(array, tokens.astype(self.dtype, copy=False), allow_pickle=False)
        self._tar.add(f"{key}{TOKENS_ENDING}", array.getvalue())
        self._tar.add(f"{key}{JSON_ENDING}", json.dumps(about).encode())

    def close(self) -> None:
        """Write the end of the archive. A shard without it counts as broken."""
        self._tar.close()


class TokenUtterance(NamedTuple):
    """An utterance of a token shard. tokens: (T,). about: its KEY.json; {} if it was not read."""

    key: str
    tokens: np.ndarray
    about: dict[str, Any]


def read_tokens(
    stream: Readable, *, codebook_size: int | None = None, with_json: bool = True
) -> Iterator[TokenUtterance]:
    """The utterances of a token shard, in the order in which they are complete.

    Members are paired by their key, in whatever order they come; others are passed over.
    codebook_size: what tokens are checked against, if given. with_json: read KEY.json too; without
    it nothing is asked of that member. Raises TokenShardError for a tar that is damaged or holds
    something else, and passes on errors of the stream.
    """
    members = 0
    keys: set[str] = set()
    # Halves of utterances: tokens, or KEY.json, whose other half has not come yet.
    waiting: dict[str, np.ndarray | dict[str, Any]] = {}
    try:
        for info, content in read_members(stream, SMALL_MEMBERS):
            if content is None:
                continue
            members += 1
            name = info.name.removeprefix("./")
            if name.endswith(TOKENS_ENDING):
                key = name.removesuffix(TOKENS_ENDING)
                tokens = _parse_tokens(key, content.read(), codebook_size)
                if key in keys:
                    raise TokenShardError(f"it has {name} twice")
                keys.add(key)
                if not with_json:
                    yield TokenUtterance(key, tokens, {})
                elif isinstance(about := waiting.pop(key, None), dict):
                    yield TokenUtterance(key, tokens, about)
                else:
                    waiting[key] = tokens
            elif name.endswith(JSON_ENDING) and with_json:
                key = name.removesuffix(JSON_ENDING)
                about = _parse_json(key, content.read())
                other = waiting.pop(key, None)
                if isinstance(other, dict) or (other is None and key in keys):
                    raise TokenShardError(f"it has {name} twice")
                if other is None:
                    waiting[key] = about
                else:
                    yield TokenUtterance(key, other, about)
    except (tarfile.TarError, EOFError) as error:
        what = f"it is cut or damaged after {len(keys)} utterances"
        if not keys:
            what = "it holds no tokens: it is no tar, or a damaged one"
        raise TokenShardError(f"{what} ({one_line(error)})") from error
    if members and not keys:
        raise TokenShardError("it holds no tokens: it has no KEY.tokens.npy")
    for key, half in waiting.items():
        lost = TOKENS_ENDING if isinstance(half, dict) else JSON_ENDING
        raise TokenShardError(f"it lacks {key}{lost}")


def _parse_tokens(key: str, data: bytes, codebook_size: int | None) -> np.ndarray:
    try:
        tokens = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise TokenShardError(f"{key} holds no tokens ({one_line(error)})") from error
    check_array(tokens, codebook_size, name=key)
    return tokens


def _parse_json(key: str, data: bytes) -> dict[str, Any]:
    try:
        about = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TokenShardError(f"{key}{JSON_ENDING} is not JSON ({one_line(error)})") from error
    if not isinstance(about, dict):
        raise TokenShardError(f"{key}{JSON_ENDING} is not a JSON object")
    return about


def check_array(tokens: np.ndarray, codebook_size: int | None, *, name: str) -> None:
    """Raises TokenShardError unless they are (T,) whole numbers, and inside the codebook if given.

    name: of the utterance, for the message.
    """
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        kind = f"{getattr(tokens, 'dtype', '?')} of shape {getattr(tokens, 'shape', '?')}"
        raise TokenShardError(f"{name} holds no tokens ({kind})")
    if codebook_size is not None and len(tokens):
        for token in (int(tokens.min()), int(tokens.max())):
            if not 0 <= token < codebook_size:
                raise TokenShardError(
                    f"{name} has a token {token} outside the codebook of {codebook_size:,}"
                )


def check_same_tokenizer(
    made_by: str | None, tokenizer: str | None, source: str | None = None
) -> None:
    """Raises UsageError unless the tokenizer that made tokens is the one they are to go with.

    made_by, tokenizer: their fingerprints; None of imported tokens, and of a model of such. source:
    where the tokenizer came from, for the message.
    """
    if made_by == tokenizer:
        return
    wanted = _described(tokenizer) + (f" ({source})" if source else "")
    raise UsageError(
        f"its tokens are of {_described(made_by)}, and tokens of {wanted} are needed",
        "give tokens with the tokenizer that made them",
    )


def _described(fingerprint: str | None) -> str:
    return f"tokenizer {fingerprint[:12]}" if fingerprint else "no tokenizer"


def check_shard_tokenizer(url: str, tokenizer: str | None, source: str | None = None) -> None:
    """As check_same_tokenizer, for one shard by its URL; one outside an OUTPUT names no tokenizer.

    Raises UsageError as that does.
    """
    root, _, name = url.rpartition("/shards/")
    record = read_record(Folder(root, argument=None)) if name else None
    if record is not None:
        check_same_tokenizer(record.get("tokenizer"), tokenizer, source)


def read_record(folder: Folder) -> dict[str, Any] | None:
    """What run.json of an OUTPUT says; None when there is no run.json.

    Raises UsageError when the store does not answer, or the file is no JSON object.
    """
    try:
        text = folder.read_text("run.json")
        record = None if text is None else json.loads(text)
        if record is not None and not isinstance(record, dict):
            raise ValueError
    except ValueError as error:
        raise folder.refused("its run.json is not a JSON object", REMEDY) from error
    except Exception as error:  # whatever a store raises, this folder cannot be used
        raise folder.unusable(error) from error
    return record


@dataclass(frozen=True)
class TokenFolder:
    """An OUTPUT of token shards.

    codebook_size, tokens_per_second, tokenizer: as its run.json says; tokenizer is a fingerprint,
    or None of imported tokens. names: of its finished shards, sorted.
    """

    folder: Folder
    codebook_size: int
    tokens_per_second: float
    tokenizer: str | None
    names: list[str]

    @classmethod
    def open(cls, url: str, argument: str | None = None) -> "TokenFolder":
        """Read run.json and list the reports.

        argument: what an error says the folder was given as. Raises UsageError when it is no
        OUTPUT, or no shard of it is finished.
        """
        folder = Folder(url, argument)
        record = read_record(folder)
        if record is None:
            raise folder.refused("it has no run.json", REMEDY)
        try:
            codebook_size = int(record["codebook_size"])
            tokens_per_second = float(record.get("tokens_per_second") or TOKENS_PER_SECOND)
        except (ValueError, KeyError, TypeError) as error:
            raise folder.refused("its run.json names no codebook_size", REMEDY) from error
        if codebook_size < 1:
            raise folder.refused(f"its run.json names {codebook_size} codes", REMEDY)
        try:
            names = folder.names("reports", ".parquet")
        except Exception as error:  # whatever a store raises, this folder cannot be used
            raise folder.unusable(error) from error
        if not names:
            raise folder.refused("it has no finished shard", "finish the job that makes it")
        tokenizer = record.get("tokenizer")
        return cls(folder, codebook_size, tokens_per_second, tokenizer=tokenizer, names=names)

    def check_tokenizer(self, tokenizer: str | None, source: str | None = None) -> None:
        """Raises UsageError unless this tokenizer made the tokens; see check_same_tokenizer."""
        try:
            check_same_tokenizer(self.tokenizer, tokenizer, source)
        except UsageError as error:
            error.value, error.argument = self.folder.given, self.folder.argument
            raise

    def report(self, name: str, columns: list[str]) -> Any:
        """A pyarrow table of these columns of a shard's report."""
        with self.folder.fs.open(self.folder.path(f"reports/{name}.parquet"), "rb") as file:
            return pq.read_table(file, columns=columns)

    def read(self, name: str, *, with_json: bool = True) -> Iterator[TokenUtterance]:
        """A shard's utterances, in order, checked against the codebook.

        Raises TokenShardError as read_tokens does, with the shard's name.
        """
        path = self.folder.path(f"shards/{name}.tar")
        try:
            with self.folder.fs.open(path, "rb", **READ_AHEAD) as file:
                yield from read_tokens(file, codebook_size=self.codebook_size, with_json=with_json)
        except TokenShardError as error:
            error.problem = f"shard {name}: {error.problem}"
            raise
