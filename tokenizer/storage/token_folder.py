"""An OUTPUT of token shards, and the check that tokens and tokenizer belong together.

It is the whole contract between pipeline and lm:

run.json               tokenizer fingerprint (null for imported tokens), codebook size, settings
shards/NAME.tar        token shards, see token_shards.py
reports/NAME.parquet   a row per input sample; a shard is finished when its report exists
"""

import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer.errors import UsageError, one_line
from tokenizer.storage.file_stream import FileStream
from tokenizer.storage.folder import Folder
from tokenizer.storage.retries import patiently
from tokenizer.storage.token_shards import TokenShardError, TokenUtterance, read_tokens

REMEDY = "give an OUTPUT of jobs/tokenize.py or jobs/import_tokens.py"
# The default where run.json does not say.
TOKENS_PER_SECOND = 50.0
WRONG_CONTENT = (KeyError, ValueError, TypeError, AttributeError)


def finished_shards(folder: Folder) -> list[str]:
    """Names of the shards of an OUTPUT that have a report, sorted."""
    return folder.names("reports", ".parquet")


def read_report(folder: Folder, name: str, columns: list[str] | None = None) -> Any:
    """A pyarrow table of a shard's report: all columns, or these.

    Raises UsageError when it is damaged or lacks one, and StoreFailed when the store fails.
    """
    data = folder.read_bytes(f"reports/{name}.parquet")
    with damage_of_report(folder, name):
        table = pq.read_table(io.BytesIO(data))
        return table if columns is None else table.select(columns)


@contextmanager
def damage_of_report(folder: Folder, name: str) -> Iterator[None]:
    """Raises UsageError for what goes wrong when a report's content is used."""
    try:
        yield
    except (pa.ArrowException, zlib.error, OSError, *WRONG_CONTENT) as error:
        raise folder.refused(
            f"its reports/{name}.parquet is damaged ({one_line(error)})",
            "remove that report, and run the job that makes it again",
        ) from error


def commit_shard(folder: Folder, name: str, *, tar: Path, report: Path) -> None:
    """Publish a shard and then its report, both local files.

    A task that dies in between has finished nothing, and its retry writes the same bytes again.
    """
    folder.publish(tar, f"shards/{name}.tar")
    folder.publish(report, f"reports/{name}.parquet")


def read_shard(
    folder: Folder, name: str, *, codebook_size: int | None = None, with_json: bool = True
) -> Iterator[TokenUtterance]:
    """The utterances of a shard of an OUTPUT, in the order of its report.

    codebook_size, with_json: as read_tokens has them. Raises TokenShardError as that and
    `as_reported` do, with the shard's name, and OSError when the store fails.
    """
    try:
        with FileStream(folder.fs, folder.path(f"shards/{name}.tar")) as file:
            utterances = read_tokens(file, codebook_size=codebook_size, with_json=with_json)
            yield from as_reported(utterances, folder, name)
    except TokenShardError as error:
        error.problem = f"shard {name}: {error.problem}"
        raise


def find_report(url: str) -> tuple[Folder, str] | None:
    """The OUTPUT and the name of a shard by its URL; None if it is no finished shard of one."""
    root, _, file = url.rpartition("/shards/")
    if not root:
        return None
    folder, name = Folder(root, argument=None), file.removesuffix(".tar")
    exists = patiently(folder.fs.exists, folder.path(f"reports/{name}.parquet"))
    return (folder, name) if exists else None


def as_reported(
    utterances: Iterable[TokenUtterance], folder: Folder, name: str
) -> Iterator[TokenUtterance]:
    """A shard's utterances in the order of its report, whatever the order of the tar's members.

    Another program may have written the tar again. Raises TokenShardError unless the shard has the
    very keys of its report, with as many tokens each; raises as read_report does.
    """
    table = read_report(folder, name, ["key", "status", "num_tokens"])
    columns = (table[column].to_pylist() for column in ("key", "status", "num_tokens"))
    lengths = {key: length for key, status, length in zip(*columns) if status == "ok"}
    missing = iter(lengths)
    wanted = next(missing, None)
    waiting: dict[str, TokenUtterance] = {}
    for utterance in utterances:
        key, length = utterance.key, len(utterance.tokens)
        if lengths.get(key) != length:
            says = f"its report says {lengths[key]:,}" if key in lengths else "not in its report"
            raise TokenShardError(f"it has {key} with {length:,} tokens; {says}")
        waiting[key] = utterance
        while wanted in waiting:
            yield waiting.pop(wanted)
            wanted = next(missing, None)
    if wanted is not None:
        raise TokenShardError(f"it lacks {wanted}, which is in its report")


def check_same_tokenizer(
    made_by: str | None, tokenizer: str | None, source: str | None = None
) -> None:
    """Raises UsageError unless the tokens were made by this tokenizer.

    made_by: the fingerprint of the tokenizer that made them; None for imported tokens. tokenizer:
    the fingerprint that is needed; None for a model of imported tokens. source: where that
    tokenizer came from, for the message.
    """
    if made_by == tokenizer:
        return
    wanted = _described(tokenizer) + (f" ({source})" if source else "")
    raise UsageError(
        f"its tokens are of {_described(made_by)}, and tokens of {wanted} are needed",
        "give tokens with the tokenizer that made them",
    )


def _described(fingerprint: str | None) -> str:
    return f"tokenizer {str(fingerprint)[:12]}" if fingerprint else "no tokenizer"


def check_shard_tokenizer(url: str, tokenizer: str | None, source: str | None = None) -> None:
    """As check_same_tokenizer, for one shard by its URL; passes if it is not in an OUTPUT.

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
    except (ValueError, RecursionError) as error:
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
            names = finished_shards(folder)
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
        """A pyarrow table of these columns of a shard's report; raises as read_report does."""
        return read_report(self.folder, name, columns)

    def read(self, name: str, *, with_json: bool = True) -> Iterator[TokenUtterance]:
        """A shard's utterances, checked against the codebook, as read_shard gives them."""
        yield from read_shard(
            self.folder, name, codebook_size=self.codebook_size, with_json=with_json
        )
