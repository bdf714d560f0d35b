"""The shard task: one audio shard → one token shard and its report, whole or not at all."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from ray.actor import ActorHandle

from pipeline.cluster.dispatch import Dispatcher
from pipeline.cluster.progress import ShardProgress, TaskTime
from pipeline.settings import BatchLimits
from pipeline.shards.ahead import Ahead
from pipeline.shards.inputs import Shard
from pipeline.shards.metadata import Metadata
from pipeline.shards.reading import ShardStream, open_shard, read_utterances
from pipeline.shards.report import ShardReport
from pipeline.shards.samples import Sample
from pipeline.tokenize.companions import Companions
from tokenizer.audio.decoding import Utterance
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE
from tokenizer.audio.windows import RawWindow, Window, Windowing
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.token_folder import commit_shard
from tokenizer.storage.token_shards import TokenShardWriter, add_metadata

# Audio that is decoded while batches are out: as many batches as are sorted together, and at most
# this many samples, an hour's.
BATCHES_AHEAD, MOST_AHEAD = 8, 3600 * SAMPLE_RATE


@dataclass(frozen=True)
class TokenizedShard:
    """What shard tasks did. seconds: of audio. time: where their own seconds went."""

    seconds: float
    time: TaskTime

    def __add__(self, other: "TokenizedShard") -> "TokenizedShard":
        return TokenizedShard(self.seconds + other.seconds, self.time + other.time)


@dataclass
class _Pending:
    """A sample that has been read and not been written yet.

    tokens: of each of its windows, None until they come back; [] of a rejected sample.
    """

    sample: Sample
    utterance: Utterance | None
    reason: str | None
    tokens: list[np.ndarray | None] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return all(part is not None for part in self.tokens)


def tokenize_shard(
    shard: Shard,
    board: ActorHandle,
    *,
    output: str,
    windowing: Windowing,
    limits: BatchLimits,
    max_duration: float | None,
    codebook_size: int,
    companions: Companions,
    dispatcher: Dispatcher,
) -> TokenizedShard:
    """Tokenize one shard and commit it; runs as a Ray task.

    A thread reads, decodes and cuts windows while batches are out. Writes shards/NAME.tar and then
    reports/NAME.parquet below `output`. A task that dies before that has changed nothing, and one
    that runs twice writes the same bytes twice. max_duration: in seconds; longer utterances are
    rejected. companions: without any counts yet.
    """
    report = ShardReport(shard.name, codebook_size)
    # Samples in input order: a sample is written once all before it are.
    queue: deque[_Pending] = deque()
    late: dict[str, Metadata] = {}
    with open_shard(shard) as stream, scratch_folder() as scratch:
        tar_path, report_path = scratch / "shard.tar", scratch / "report.parquet"
        tar = TokenShardWriter(tar_path, shard=shard.name, codebook_size=codebook_size)

        def windows() -> Iterator[tuple[tuple[_Pending, int, Window], RawWindow]]:
            utterances = read_utterances(
                stream,
                windowing.samples,
                late,
                max_duration=max_duration,
                keep_int16=True,
                threads=progress.threads,
                left_beside=companions.apart,
            )
            for sample, utterance, reason in utterances:
                pending = _Pending(sample, utterance, reason)
                if utterance is None:
                    queue.append(pending)
                    continue
                progress.seconds_read += utterance.samples / SAMPLE_RATE
                plan = windowing.plan_samples(utterance.samples)
                pending.tokens = [None] * len(plan)
                queue.append(pending)  # not before: without tokens to come it would be complete
                for number, raw in enumerate(windowing.cut_raw(utterance, plan)):
                    yield (pending, number, plan[number]), raw
                utterance.waveform = None

        most = min(BATCHES_AHEAD * limits.samples, MOST_AHEAD)
        ahead = Ahead(windows(), most, lambda window: len(window[1]))
        clock = _Clock(stream, ahead)
        progress = ShardProgress(board, shard.name, clock.time)
        with ahead:
            for (pending, number, window), tokens in dispatcher.encode_all(ahead, limits):
                pending.tokens[number] = tokens[window.kept_tokens(windowing.frames_per_token)]
                kept_frames = window.keep_to - window.keep_from
                progress.advance(stream.bytes_read, kept_frames / FRAMES_PER_SECOND)
                _write_complete(queue, tar, report, companions=companions)
        clock.encoded = time.monotonic()
        _write_complete(queue, tar, report, companions=companions)
        tar.close()
        if late:
            values = {key: (value.value, value.error) for key, value in late.items()}
            add_metadata(tar_path, values, companions.with_late)
        stream.check()
        report.version, report.companions = stream.version, companions.counts()
        report.write(report_path)
        commit_shard(Folder(output), shard.name, tar=tar_path, report=report_path)
    progress.finish(shard.size)
    return TokenizedShard(sum(row["duration_s"] or 0.0 for row in report.rows), clock.time())


class _Clock:
    """Where a task's time goes. encoded: when the last batch came back, 0 before that."""

    def __init__(self, stream: ShardStream, ahead: Ahead) -> None:
        self.stream, self.ahead = stream, ahead
        self.started, self.encoded = time.monotonic(), 0.0

    def time(self) -> TaskTime:
        """So far: the decoding thread decodes where it does not wait."""
        now = time.monotonic()
        encoded = self.encoded or now
        # After the last window is cut, the task waits for the encoders alone.
        encode = self.ahead.blocked + (encoded - self.ahead.ended if self.ahead.ended else 0.0)
        storage = self.stream.waited + now - encoded
        return TaskTime(max(0.0, now - self.started - encode - storage), encode, storage)


def _write_complete(
    queue: deque[_Pending], tar: TokenShardWriter, report: ShardReport, *, companions: Companions
) -> None:
    """Write samples from the head of the queue while they are complete."""
    while queue and queue[0].complete:
        pending = queue.popleft()
        sample, utterance = pending.sample, pending.utterance
        if utterance is None:
            report.reject(sample.key, str(pending.reason), place=sample.place)
            continue
        tokens = np.concatenate([part for part in pending.tokens if part is not None])
        tar.add(
            sample.key,
            tokens,
            duration_s=utterance.duration_s,
            sample_rate=utterance.sample_rate,
            metadata=sample.metadata,
            metadata_error=sample.metadata_error,
            spans=companions.spans_of(sample, utterance.duration_s, len(tokens)),
            beside=companions.kept(sample),
        )
        report.ok(sample.key, utterance.duration_s, tokens, place=sample.place)
        report.silent += utterance.silent
