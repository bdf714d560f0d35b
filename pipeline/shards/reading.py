"""A shard as a stream of utterances, each good or with the reason why it is rejected."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from pipeline.shards.inputs import Shard
from pipeline.shards.samples import Sample, read_samples
from tokenizer.audio.decoding import AudioError, Utterance, read_utterance
from tokenizer.storage.folder import READ_AHEAD, filesystem
from tokenizer.storage.tars import Readable


class CountingStream:
    """A stream that counts the bytes read from it."""

    def __init__(self, file: Readable) -> None:
        self.file = file
        self.bytes_read = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""
        data = self.file.read(size)
        self.bytes_read += len(data)
        return data


@contextmanager
def open_shard(shard: Shard) -> Iterator[CountingStream]:
    """Open a shard for one pass, on any filesystem."""
    fs, path = filesystem(shard.url)
    with fs.open(path, "rb", **READ_AHEAD) as file:
        yield CountingStream(file)


def read_utterances(
    stream: Readable, keep_samples: int
) -> Iterator[tuple[Sample, Utterance | None, str | None]]:
    """(sample, utterance, None) or (sample, None, reason) for every sample of a tar, in order.

    keep_samples: an utterance of up to this many samples at 16 kHz stays decoded in memory; a
    longer one is decoded again, block by block, when its windows are cut. An utterance can be used
    until the next one is asked for.
    """
    for sample in read_samples(stream):
        if sample.audio is None:
            yield sample, None, sample.problem
            continue
        with sample.audio as audio:
            try:
                utterance = read_utterance(cast(BinaryIO, audio), keep_samples)
            except AudioError as error:
                yield sample, None, error.reason
                continue
            yield sample, utterance, None
