"""Token shards: the one writer and the one reader of their tars.

A shard has two members per utterance: KEY.tokens.npy, (T,) uint16, or uint32 over 65,536 codes; and
KEY.json, with duration_s, sample_rate, num_tokens, shard, and the sample's own json as metadata.
What lay beside the audio, such as KEY.txt, may follow; the reader passes over it.

Nothing here imports PyTorch or Ray: a shard task is a small process.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenizer.errors import UsageError, one_line
from tokenizer.storage.tars import SMALL_MEMBERS, TarWriter, read_members
from tokenizer.storage.unpacking import Readable

# A member is read into memory: two weeks of speech have fewer bytes.
LARGEST_MEMBER = 256 << 20
TOKENS_ENDING, JSON_ENDING = ".tokens.npy", ".json"


class TokenShardError(UsageError):
    """A shard that is damaged or no token shard; the message says what is wrong."""


def token_dtype(codebook_size: int) -> type[np.integer]:
    """The dtype of stored tokens: uint16, or uint32 over 65,536 codes."""
    return np.uint16 if codebook_size <= 1 << 16 else np.uint32


class TokenShardWriter:
    """Writes a token shard to a local file: KEY.tokens.npy, then KEY.json, of each utterance."""

    def __init__(self, path: Path, *, shard: str, codebook_size: int) -> None:
        """path: a local file. shard: its NAME, which every KEY.json repeats."""
        self._tar, self.shard = TarWriter(path), shard
        self.dtype = token_dtype(codebook_size)

    def add(
        self,
        key: str,
        tokens: np.ndarray,
        *,
        duration_s: float,
        sample_rate: int,
        metadata: object,
        metadata_error: str | None = None,
        spans: Mapping[str, list[dict]] | None = None,
        beside: Mapping[str, bytes] | None = None,
    ) -> None:
        """Append an utterance. tokens: (T,) whole numbers inside the codebook.

        duration_s, sample_rate: of the source audio. metadata: the value of the sample's own json.
        metadata_error: why that could not be read, if so. spans: by their field, with the tokens
        of each. beside: {ending: content} of members that follow as they are; none ends like the
        utterance's own.
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
        if spans:
            about["spans"] = spans
        array = io.BytesIO()
        np.save(array, tokens.astype(self.dtype, copy=False), allow_pickle=False)
        self._tar.add(f"{key}{TOKENS_ENDING}", array.getvalue())
        self._tar.add(f"{key}{JSON_ENDING}", json.dumps(about).encode())
        for ending, content in (beside or {}).items():
            self._tar.add(f"{key}.{ending}", content)

    def close(self) -> None:
        """Write the end of the archive. A shard without it counts as broken."""
        self._tar.close()


def add_metadata(
    path: Path,
    metadata: dict[str, tuple[object, str | None]],
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda about: about,
) -> None:
    """Put metadata that came after its tokens into a local shard's KEY.json.

    metadata: by key, the value of the sample's own json, and why it could not be read, if so.
    complete: is given each KEY.json with its metadata, and returns what is written.
    """
    whole = path.with_name(f"{path.name}.new")
    writer = TarWriter(whole)
    with path.open("rb") as file:
        for info, content in read_members(file, SMALL_MEMBERS):
            data = content.read() if content else b""
            key = info.name.removesuffix(JSON_ENDING)
            if key in metadata and key != info.name:
                about = json.loads(data)
                about["metadata"], error = metadata[key]
                about |= {"metadata_error": error} if error else {}
                data = json.dumps(complete(about)).encode()
            writer.add(info.name, data)
    writer.close()
    whole.replace(path)


class TokenUtterance(NamedTuple):
    """An utterance of a token shard. tokens: (T,). about: its KEY.json; {} if it was not read."""

    key: str
    tokens: np.ndarray
    about: dict[str, Any]


def read_tokens(
    stream: Readable, *, codebook_size: int | None = None, with_json: bool = True
) -> Iterator[TokenUtterance]:
    """The utterances of a token shard, each as soon as both of its members have been read.

    Members are paired by their key, in any order; other members are ignored. codebook_size: check
    that tokens are inside it. with_json: read KEY.json too; without it that member may be missing.
    Raises TokenShardError for a tar that is damaged or no token shard, and passes on errors of the
    stream.
    """
    members = 0
    keys: set[str] = set()
    # By key: tokens, or the value of KEY.json, until the other member comes.
    waiting: dict[str, np.ndarray | dict[str, Any]] = {}
    try:
        for info, content in read_members(stream, SMALL_MEMBERS):
            if content is None:
                continue
            members += 1
            name = info.name.removeprefix("./")
            if info.size > LARGEST_MEMBER and name.endswith((TOKENS_ENDING, JSON_ENDING)):
                raise TokenShardError(f"its {name} has {info.size:,} bytes")
            if name.endswith(TOKENS_ENDING):
                key = name.removesuffix(TOKENS_ENDING)
                tokens = parse_tokens(key, content.read(), codebook_size)
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


def parse_tokens(key: str, data: bytes, codebook_size: int | None = None) -> np.ndarray:
    """A .npy file's (T,) tokens. key: names them in the message. Raises TokenShardError."""
    try:
        tokens = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a header that is damaged on purpose raises nearly anything
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
