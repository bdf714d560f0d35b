"""An input shard as a stream of utterances, each sound or with the reason why it is not."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.shards.inputs import Shard
from pipeline.shards.samples import Sample, read_samples
from tokenizer.audio.decoding import AudioError, Utterance, read_utterance
from tokenizer.storage.folder import filesystem

# One request to a store fetches this much; the next waits for it, so it is not small.
READ_AHEAD_BYTES = 16 << 20


class CountingStream:
    """A file read from start to end that knows how far it is."""

    def __init__(self, file) -> None:
        self.file = file
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        data = self.file.read(size)
        self.bytes_read += len(data)
        return data


@contextmanager
def open_shard(shard: Shard) -> Iterator[CountingStream]:
    """Open an input tar for one pass, wherever it lies."""
    fs, path = filesystem(shard.url)
    with fs.open(path, "rb", block_size=READ_AHEAD_BYTES, cache_type="readahead") as file:
        yield CountingStream(file)


def read_utterances(
    stream: CountingStream, keep_samples: int
) -> Iterator[tuple[Sample, Utterance | None, str | None]]:
    """(sample, utterance, None) or (sample, None, reason) for every sample of a tar, in order.

    keep_samples: up to this length at 16 kHz an utterance is held decoded; longer ones are decoded
    again, block by block, when their windows are cut. An utterance is good until the next is read.
    """
    for sample in read_samples(stream):
        if sample.problem:
            yield sample, None, sample.problem
            continue
        with sample.audio:
            try:
                utterance = read_utterance(sample.audio, keep_samples)
            except AudioError as error:
                yield sample, None, error.reason
                continue
            yield sample, utterance, None
