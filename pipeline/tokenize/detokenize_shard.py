"""The shard task of decoding: one token shard → one audio shard, whole or not at all.

Decoders make the sound, as encoders make tokens; the task reads tokens and writes FLAC meanwhile.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from ray.actor import ActorHandle

from pipeline.cluster.dispatch import Dispatcher
from pipeline.cluster.progress import ShardProgress
from pipeline.settings import BatchLimits
from pipeline.shards.ahead import Ahead
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard
from tokenizer.audio.windows import Window, Windowing, kept_samples
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tars import TarWriter
from tokenizer.storage.token_folder import as_reported
from tokenizer.storage.token_shards import TokenUtterance, read_tokens

# Tokens that wait to be decoded, in batches: as many as are sorted together.
BATCHES_AHEAD = 8


@dataclass(frozen=True)
class DecodingPlan:
    """What a shard task knows of the decoder.

    windowing: in tokens; None for a causal decoder, which gets whole utterances. samples_per_token,
    sample_rate: of the sound. codebook_size: tokens are checked against it.
    """

    windowing: Windowing | None
    samples_per_token: int
    sample_rate: int
    codebook_size: int

    def windows(self, tokens: int) -> list[Window]:
        """The windows of an utterance of so many tokens; none where there are none."""
        if not tokens:
            return []
        if self.windowing is None:
            return [Window(0, tokens, keep_from=0, keep_to=tokens)]
        return self.windowing.plan(tokens)


@dataclass
class _Spoken:
    """An utterance that has been read and not been written yet. waves: None are to come."""

    utterance: TokenUtterance
    waves: list[np.ndarray | None] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return all(wave is not None for wave in self.waves)


def detokenize_shard(
    shard: Shard,
    board: ActorHandle,
    *,
    output: str,
    plan: DecodingPlan,
    limits: BatchLimits,
    dispatcher: Dispatcher,
) -> float:
    """Make audio of one token shard; runs as a Ray task. Returns the seconds of audio.

    limits: of a batch, where "samples" are tokens. Writes NAME.tar below `output`, with KEY.flac
    (16 bit, at the vocoder's rate) and the token shard's own KEY.json, in its order. A task that
    dies has changed nothing, and one that runs twice writes the same bytes twice.
    """
    progress = ShardProgress(board, shard.name)
    # Utterances in input order: one is written once all before it are.
    queue: deque[_Spoken] = deque()
    with open_shard(shard) as stream, scratch_folder() as scratch:
        tar_path, flac = scratch / "shard.tar", scratch / "speech.flac"
        tar = TarWriter(tar_path)
        made = Folder(shard.url.removesuffix(f"/shards/{shard.name}.tar"), argument=None)

        def windows() -> Iterator[tuple[tuple[_Spoken, int, Window], np.ndarray]]:
            utterances = read_tokens(stream, codebook_size=plan.codebook_size)
            for utterance in as_reported(utterances, made, shard.name):
                count = len(utterance.tokens)
                cut = plan.windows(count)
                progress.seconds_read += count * plan.samples_per_token / plan.sample_rate
                spoken = _Spoken(utterance, [None] * len(cut))
                queue.append(spoken)
                for number, window in enumerate(cut):
                    yield (spoken, number, window), utterance.tokens[window.start : window.stop]

        with Ahead(windows(), BATCHES_AHEAD * limits.samples, lambda each: len(each[1])) as ahead:
            for (spoken, number, window), wave in dispatcher.encode_all(ahead, limits):
                count = len(spoken.utterance.tokens)
                spoken.waves[number] = wave[kept_samples(window, count, plan.samples_per_token)]
                kept = (window.keep_to - window.keep_from) * plan.samples_per_token
                progress.advance(stream.bytes_read, kept / plan.sample_rate)
                _write_complete(queue, tar, flac=flac, plan=plan)
        _write_complete(queue, tar, flac=flac, plan=plan)
        tar.close()
        Folder(output).publish(tar_path, f"{shard.name}.tar")
    progress.finish(shard.size)
    return progress.seconds_done


def _write_complete(
    queue: deque[_Spoken], tar: TarWriter, *, flac: Path, plan: DecodingPlan
) -> None:
    """Write utterances from the head of the queue while they are complete. flac: a local file."""
    while queue and queue[0].complete:
        spoken = queue.popleft()
        write_flac(flac, plan.sample_rate, spoken.waves)
        key, _, about = spoken.utterance
        with flac.open("rb") as file:
            tar.add_file(f"{key}.flac", file, flac.stat().st_size)
        tar.add(f"{key}.json", json.dumps(about).encode())


def write_flac(path: Path, sample_rate: int, waves: Iterable[np.ndarray | None]) -> None:
    """(n,) int16 pieces, one after the other → a FLAC file of 16 bits."""
    with soundfile.SoundFile(path, "w", sample_rate, 1, "PCM_16", format="FLAC") as sound:
        for wave in waves:
            sound.write(wave)
