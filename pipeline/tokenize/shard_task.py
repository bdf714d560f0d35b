"""The shard task: one input tar → one token shard and its report, whole or not at all."""

import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ray
from ray.actor import ActorHandle

from pipeline.cluster.dispatch import Dispatcher, encode_all
from pipeline.cluster.progress import ShardProgress
from pipeline.settings import BatchLimits
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.shards.report import ShardReport
from pipeline.shards.samples import Sample, TarWriter
from tokenizer.audio.decoding import Utterance
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE
from tokenizer.audio.windows import Windowing
from tokenizer.storage.folder import Folder


@dataclass
class _Pending:
    """A sample between its reading and its place in the output."""

    sample: Sample
    reason: str | None
    utterance: Utterance | None
    tokens: list[np.ndarray | None] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        return all(part is not None for part in self.tokens)


def tokenize_shard(
    shard: Shard,
    output: str,
    windowing: Windowing,
    batching: BatchLimits,
    codebook_size: int,
    encoders: list[ActorHandle],
    in_flight: int,
    first_encoder: int,
    board: ActorHandle,
) -> float:
    """Tokenize one shard and commit it; runs as a Ray task. Returns the seconds of audio in it.

    Writes shards/NAME.tar and then reports/NAME.parquet below `output`. A task that dies before
    that has changed nothing, and one that runs twice writes the same bytes twice.
    """
    folder = Folder(output)
    progress = ShardProgress(board, shard.name)
    report = ShardReport(shard.name, codebook_size)
    queue: deque[_Pending] = deque()
    with open_shard(shard) as stream, tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        tar_path, report_path = Path(scratch) / "shard.tar", Path(scratch) / "report.parquet"
        tar = TarWriter(tar_path)

        def windows():
            for sample, utterance, reason in read_utterances(stream, windowing.samples):
                pending = _Pending(sample, reason, utterance)
                queue.append(pending)
                if utterance is None:
                    continue
                progress.seconds_read += utterance.samples / SAMPLE_RATE
                plan = windowing.plan(utterance.num_frames)
                pending.tokens = [None] * len(plan)
                for number, wave in enumerate(windowing.cut(utterance, plan)):
                    yield (pending, number, plan[number]), wave
                utterance.waveform = None

        dispatcher = Dispatcher(encoders, "encode", limit=in_flight, start=first_encoder)
        for (pending, number, window), tokens in encode_all(windows(), dispatcher, batching):
            pending.tokens[number] = tokens[window.kept_tokens(windowing.frames_per_token)]
            kept_frames = window.keep_to - window.keep_from
            progress.advance(stream.bytes_read, kept_frames / FRAMES_PER_SECOND)
            _write_settled(queue, tar, report)
        _write_settled(queue, tar, report)
        tar.close()
        report.write(report_path)
        folder.publish(tar_path, f"shards/{shard.name}.tar")
        folder.publish(report_path, f"reports/{shard.name}.parquet")
    progress.finish(shard.size)
    return sum(row["duration_s"] or 0.0 for row in report.rows)


def _write_settled(queue: deque[_Pending], tar: TarWriter, report: ShardReport) -> None:
    """Write samples from the head of the queue for as long as they are done: order is kept."""
    while queue and queue[0].settled:
        pending = queue.popleft()
        sample, utterance = pending.sample, pending.utterance
        if pending.reason:
            report.reject(sample.key, pending.reason)
            continue
        tokens = np.concatenate(pending.tokens)
        about = {
            "duration_s": utterance.duration_s,
            "sample_rate": utterance.sample_rate,
            "num_tokens": len(tokens),
            "shard": report.shard,
            "metadata": sample.metadata,
        }
        if sample.metadata_error:
            about["metadata_error"] = sample.metadata_error
        tar.add_tokens(sample.key, tokens, about)
        report.ok(sample.key, utterance.duration_s, tokens)


tokenize_shard_task = ray.remote(tokenize_shard)
