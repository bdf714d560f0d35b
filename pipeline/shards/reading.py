"""A shard as a stream of utterances, each good or with the reason why it is rejected."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from pipeline.shards.inputs import Shard
from pipeline.shards.listing import version_of
from pipeline.shards.metadata import Metadata
from pipeline.shards.samples import Sample, read_samples
from tokenizer.audio.decoding import AudioError, Utterance, read_utterance
from tokenizer.storage.folder import READ_AHEAD, filesystem, public_url
from tokenizer.storage.unpacking import Readable

# How often a read that ends too early is tried again from where it stopped.
SHORT_READS = 5


class InputChanged(OSError):
    """An input is not what it was when the task began; the task is tried again."""


class ShardStream:
    """A shard's bytes, read once from start to end.

    The end is where the object's size says it is: a store whose answer stops before it has failed,
    and is asked again for the rest. bytes_read: so far. version: the object's size, and its ETag
    or time of change.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._fs, self._path = filesystem(shard.url)
        self.version = self._version()
        self.size = self.version[0]
        self.bytes_read = 0
        self._file = self._open()

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end. Raises OSError when the store fails."""
        if self.size >= 0:
            size = min(size, self.size - self.bytes_read)
        data = self._file.read(size)
        self.bytes_read += len(data)
        tries = 0
        while len(data) < size and self.size >= 0:
            if tries == SHORT_READS:
                where = f"{self.bytes_read:,} of {self.size:,} bytes"
                raise OSError(f"{public_url(self._shard.url)} ended after {where}")
            time.sleep(0.1 * 2**tries)
            tries += 1
            self.close()
            self._file = self._open()
            self._file.seek(self.bytes_read)
            more = self._file.read(size - len(data))
            self.bytes_read += len(more)
            data += more
        return data

    def check(self) -> None:
        """Raises InputChanged if the object is another one than when it was opened."""
        self._fs.invalidate_cache()
        if self._version() != self.version:
            raise InputChanged(f"{public_url(self._shard.url)} changed while it was read")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> Any:
        return self._fs.open(self._path, "rb", **READ_AHEAD)

    def _version(self) -> tuple[int, str]:
        return version_of(self._fs.info(self._path))


@contextmanager
def open_shard(shard: Shard) -> Iterator[ShardStream]:
    """Open a shard for one pass, on any filesystem."""
    stream = ShardStream(shard)
    try:
        yield stream
    finally:
        stream.close()


def read_utterances(
    stream: Readable,
    keep_samples: int,
    late: dict[str, Metadata] | None = None,
    *,
    max_duration: float | None = None,
) -> Iterator[tuple[Sample, Utterance | None, str | None]]:
    """(sample, utterance, None) or (sample, None, reason) for every sample of a tar, in order.

    keep_samples: an utterance of up to this many samples at 16 kHz stays decoded in memory; a
    longer one is decoded again, block by block, when its windows are cut. An utterance can be used
    until the next one is asked for. late: is given the metadata that comes after its sample, by
    key. max_duration: in seconds; a longer utterance is rejected.
    """
    for sample in read_samples(stream, late):
        if sample.audio is None:
            yield sample, None, sample.problem
            continue
        with sample.audio as audio:
            try:
                utterance = read_utterance(
                    cast(BinaryIO, audio), keep_samples, max_seconds=max_duration
                )
            except AudioError as error:
                yield sample, None, error.reason
                continue
            yield sample, utterance, None
