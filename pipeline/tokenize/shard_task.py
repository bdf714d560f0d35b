"""The shard task: one audio shard → one token shard and its report, whole or not at all."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from ray.actor import ActorHandle

from pipeline.cluster.dispatch import Dispatcher
from pipeline.cluster.progress import ShardProgress
from pipeline.settings import BatchLimits
from pipeline.shards.inputs import Shard
from pipeline.shards.metadata import Metadata
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.shards.report import ShardReport
from pipeline.shards.samples import Sample
from pipeline.tokenize.companions import Companions
from tokenizer.audio.decoding import Utterance
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE
from tokenizer.audio.windows import Window, Windowing
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.token_folder import commit_shard
from tokenizer.storage.token_shards import TokenShardWriter, add_metadata


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
) -> float:
    """Tokenize one shard and commit it; runs as a Ray task. Returns the seconds of audio in it.

    Writes shards/NAME.tar and then reports/NAME.parquet below `output`. A task that dies before
    that has changed nothing, and one that runs twice writes the same bytes twice. max_duration: in
    seconds; longer utterances are rejected. companions: without any counts yet.
    """
    progress = ShardProgress(board, shard.name)
    report = ShardReport(shard.name, codebook_size)
    # Samples in input order: a sample is written once all before it are.
    queue: deque[_Pending] = deque()
    late: dict[str, Metadata] = {}
    with open_shard(shard) as stream, scratch_folder() as scratch:
        tar_path, report_path = scratch / "shard.tar", scratch / "report.parquet"
        tar = TokenShardWriter(tar_path, shard=shard.name, codebook_size=codebook_size)

        def windows() -> Iterator[tuple[tuple[_Pending, int, Window], np.ndarray]]:
            utterances = read_utterances(
                stream,
                windowing.samples,
                late,
                max_duration=max_duration,
                left_beside=companions.apart,
            )
            for sample, utterance, reason in utterances:
                pending = _Pending(sample, utterance, reason)
                queue.append(pending)
                if utterance is None:
                    continue
                progress.seconds_read += utterance.samples / SAMPLE_RATE
                plan = windowing.plan_samples(utterance.samples)
                pending.tokens = [None] * len(plan)
                for number, wave in enumerate(windowing.cut(utterance, plan)):
                    yield (pending, number, plan[number]), wave
                utterance.waveform = None

        for (pending, number, window), tokens in dispatcher.encode_all(windows(), limits):
            pending.tokens[number] = tokens[window.kept_tokens(windowing.frames_per_token)]
            kept_frames = window.keep_to - window.keep_from
            progress.advance(stream.bytes_read, kept_frames / FRAMES_PER_SECOND)
            _write_complete(queue, tar, report, companions=companions)
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
    return sum(row["duration_s"] or 0.0 for row in report.rows)


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
