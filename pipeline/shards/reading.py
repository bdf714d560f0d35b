"""A shard as a stream of utterances, each good or with the reason why it is rejected."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from pipeline.shards.ahead import mapped_in_order
from pipeline.shards.inputs import Shard
from pipeline.shards.listing import version_of
from pipeline.shards.metadata import Metadata
from pipeline.shards.samples import Sample, read_samples
from tokenizer.audio.decoding import Utterance, read_utterance
from tokenizer.audio.reasons import AudioError
from tokenizer.storage.file_stream import FileStream
from tokenizer.storage.folder import filesystem
from tokenizer.storage.unpacking import Readable


class InputChanged(OSError):
    """An input is not what it was when the task began; the task is tried again."""


class ShardStream(FileStream):
    """A shard's bytes. version: the object's size, and its ETag or time of change."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(*filesystem(shard.url))
        self.version = version_of(self.info)

    def check(self) -> None:
        """Raises InputChanged if the object is another one than when it was opened."""
        self.fs.invalidate_cache()
        if version_of(self.fs.info(self.path)) != self.version:
            raise InputChanged(f"{self.url} changed while it was read")


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
    left_beside: Counter[str] | None = None,
) -> Iterator[tuple[Sample, Utterance | None, str | None]]:
    """(sample, utterance, None) or (sample, None, reason) for every sample of a tar, in order.

    keep_samples: an utterance of up to this many samples at 16 kHz stays decoded in memory, a
    longer one on local disk, from where its windows are cut. An utterance can be used until the
    next one is asked for. late: is given the metadata that comes after its sample, by key.
    max_duration: in seconds; a longer utterance is rejected. keep_int16: as in `decode`.
    threads: how many may decode, asked before each sample. left_beside: as in `read_samples`.
    """

    def read(sample: Sample) -> Utterance | str | None:
        if sample.audio is None:
            return sample.problem
        audio = cast(BinaryIO, sample.audio)
        try:
            return read_utterance(audio, keep_samples, max_duration, keep_int16=keep_int16)
        except AudioError as error:
            return error.reason

    samples, most = read_samples(stream, late, left_beside), os.cpu_count() or 1
    for sample, result in mapped_in_order(read, samples, threads, most=most):
        try:
            if isinstance(result, Utterance):
                yield sample, result, None
            else:
                yield sample, None, result
        finally:
            if sample.audio is not None:
                sample.audio.close()
