"""A shard as a stream of utterances, each good or with the reason why it is rejected."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from fsspec.implementations.local import LocalFileSystem

from pipeline.shards.ahead import mapped_in_order
from pipeline.shards.inputs import Shard
from pipeline.shards.listing import version_of
from pipeline.shards.samples import Metadata, Sample, read_samples
from tokenizer.audio.decoding import AudioError, Utterance, read_utterance
from tokenizer.storage.folder import READ_AHEAD, filesystem, public_url
from tokenizer.storage.unpacking import Readable

# How often a read that ends too early is tried again from where it stopped.
SHORT_READS = 5
# Blocks of a shard that are fetched from a store at the same time, of 16 MB each.
BLOCKS_AHEAD = 3


class InputChanged(OSError):
    """An input is not what it was when the task began; the task is tried again."""


class ShardStream:
    """A shard's bytes, read once from start to end.

    The end is where the object's size says it is: a store whose answer stops before it has failed,
    and is asked again for the rest. From a store several blocks are fetched ahead, at the same
    time. bytes_read: so far. waited: seconds spent waiting for bytes. version: the object's size,
    and its ETag or time of change.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._fs, self._path = filesystem(shard.url)
        self.version = self._version()
        self.size = self.version[0]
        self.bytes_read, self.waited = 0, 0.0
        # A local disk reads ahead by itself; without a size nobody knows where blocks end.
        self._far = self.size >= 0 and not isinstance(self._fs, LocalFileSystem)
        self._file = None if self._far else self._open()
        self._pool = ThreadPoolExecutor(BLOCKS_AHEAD) if self._far else None
        self._asked = 0
        self._coming: deque[Future[bytes]] = deque()
        self._block = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end. Raises OSError when the store fails."""
        started = time.monotonic()
        if self.size >= 0:
            size = min(size, self.size - self.bytes_read)
        data = self._read_blocks(size) if self._far else self._read_file(size)
        self.bytes_read += len(data)
        self.waited += time.monotonic() - started
        return data

    def _read_file(self, size: int) -> bytes:
        assert self._file is not None
        data = self._file.read(size)

        def more(start: int, missing: int) -> bytes:
            assert self._file is not None
            self._file.close()
            self._file = self._open()
            self._file.seek(start)
            return self._file.read(missing)

        return self._whole(data, self.bytes_read, size=size, more=more) if self.size >= 0 else data

    def _read_blocks(self, size: int) -> bytes:
        parts, wanted = [], size
        while wanted:
            if not self._block:
                self._ask()
                self._block = memoryview(self._coming.popleft().result())
            part, self._block = self._block[:wanted], self._block[wanted:]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def _ask(self) -> None:
        """Keep so many blocks on their way."""
        assert self._pool is not None
        while len(self._coming) < BLOCKS_AHEAD and self._asked < self.size:
            size = min(READ_AHEAD["block_size"], self.size - self._asked)
            self._coming.append(self._pool.submit(self._fetch, self._asked, size))
            self._asked += size

    def _fetch(self, start: int, size: int) -> bytes:
        """A block; runs in a thread."""

        def fetch(start: int, size: int) -> bytes:
            return self._fs.cat_file(self._path, start=start, end=start + size)

        return self._whole(fetch(start, size), start, size=size, more=fetch)

    def _whole(
        self, data: bytes, start: int, *, size: int, more: Callable[[int, int], bytes]
    ) -> bytes:
        """All `size` bytes from `start` on, of which `data` came. more: asks for what is missing.

        Raises OSError where they do not come, however often they are asked for.
        """
        for tries in range(SHORT_READS + 1):
            if len(data) >= size:
                return data
            if tries == SHORT_READS:
                break
            time.sleep(0.1 * 2**tries)
            data += more(start + len(data), size - len(data))
        where = f"{start + len(data):,} of {self.size:,} bytes"
        raise OSError(f"{public_url(self._shard.url)} ended after {where}")

    def check(self) -> None:
        """Raises InputChanged if the object is another one than when it was opened."""
        self._fs.invalidate_cache()
        if self._version() != self.version:
            raise InputChanged(f"{public_url(self._shard.url)} changed while it was read")

    def close(self) -> None:
        """Close the file; blocks that are on their way are not waited for."""
        if self._file is not None:
            self._file.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

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
    keep_int16: bool = False,
    threads: Callable[[], int] = lambda: 1,
) -> Iterator[tuple[Sample, Utterance | None, str | None]]:
    """(sample, utterance, None) or (sample, None, reason) for every sample of a tar, in order.

    keep_samples: an utterance of up to this many samples at 16 kHz stays decoded in memory; a
    longer one is decoded again, block by block, when its windows are cut. An utterance can be used
    until the next one is asked for. late: is given the metadata that comes after its sample, by
    key. max_duration: in seconds; a longer utterance is rejected. keep_int16: as in `decode`.
    threads: how many may decode, asked before each sample.
    """

    def read(sample: Sample) -> Utterance | str | None:
        if sample.audio is None:
            return sample.problem
        audio = cast(BinaryIO, sample.audio)
        try:
            return read_utterance(audio, keep_samples, max_duration, keep_int16=keep_int16)
        except AudioError as error:
            return error.reason

    samples, most = read_samples(stream, late), os.cpu_count() or 1
    for sample, result in mapped_in_order(read, samples, threads, most=most):
        try:
            if isinstance(result, Utterance):
                yield sample, result, None
            else:
                yield sample, None, result
        finally:
            if sample.audio is not None:
                sample.audio.close()
