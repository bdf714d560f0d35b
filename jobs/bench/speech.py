"""What jobs/bench/encode.py measures on: tests/speech, cut to utterances of 2 to 20 s."""

import io
from pathlib import Path

import numpy as np
import soundfile

from jobs.cli import flags
from pipeline.shards.inputs import find_shards
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.storage.tars import TarWriter

SPEECH = Path(__file__).resolve().parent.parent.parent / "tests" / "speech"


def make_utterances(count: int) -> list[np.ndarray]:
    """Speech of `count` lengths spread evenly from 2 to 20 s, in an order that mixes them."""
    waveforms: list[np.ndarray] = []
    for shard in flags.named("--input", find_shards, [str(SPEECH)])[1]:
        with open_shard(shard) as stream:
            for _, utterance, _ in read_utterances(stream, keep_samples=1 << 30):
                assert utterance is not None and utterance.waveform is not None
                waveforms.append(utterance.waveform)
    speech = np.concatenate(waveforms)
    random = np.random.default_rng(0)
    utterances = []
    for seconds in random.permutation(np.linspace(2, 20, count)):
        length = int(seconds * SAMPLE_RATE)
        start = random.integers(len(speech) - length)
        wave = speech[start : start + length]
        utterances.append((wave - wave.mean()) / wave.std())
    return utterances


def write_shards(folder: Path, waves: list[np.ndarray], shards: int, repeats: int) -> float:
    """Audio shards with all utterances, `repeats` times in each. Returns seconds of audio."""
    flacs = []
    for wave in waves:
        file = io.BytesIO()
        soundfile.write(file, wave / np.abs(wave).max(), SAMPLE_RATE, format="FLAC")
        flacs.append(file.getvalue())
    for number in range(shards):
        tar = TarWriter(folder / f"bench-{number:06d}.tar")
        for repeat in range(repeats):
            for i, data in enumerate(flacs):
                tar.add(f"{number}-{repeat}-{i}.flac", data)
        tar.close()
    return shards * repeats * sum(map(len, waves)) / SAMPLE_RATE
