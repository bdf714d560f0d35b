"""What benches measure on: tests/speech, cut to utterances of 2 to 20 s, in any container."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from jobs.cli import flags
from pipeline.shards.inputs import find_shards
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.storage.tars import TarWriter

SPEECH = Path(__file__).resolve().parents[3] / "tests" / "speech"


@dataclass(frozen=True)
class Container:
    """How utterances are stored. rate: in Hz. format, subtype: libsndfile's. ending: of a file."""

    rate: int
    format: str
    subtype: str
    ending: str


CONTAINERS = {
    "flac16": Container(SAMPLE_RATE, "FLAC", subtype="PCM_16", ending="flac"),
    "wav16": Container(SAMPLE_RATE, "WAV", subtype="PCM_16", ending="wav"),
    "flac44": Container(44_100, "FLAC", subtype="PCM_16", ending="flac"),
    "mp3": Container(44_100, "MP3", subtype="MPEG_LAYER_III", ending="mp3"),
    "ogg": Container(44_100, "OGG", subtype="VORBIS", ending="ogg"),
    "opus": Container(48_000, "OGG", subtype="OPUS", ending="opus"),
}


def read_waveforms(shards: list[str], flag: str = "--input") -> list[np.ndarray]:
    """The utterances of audio shards, (n,) float32 at 16 kHz each. flag: named in an error."""
    waveforms = []
    for shard in flags.named(flag, find_shards, shards)[1]:
        with open_shard(shard) as stream:
            for _, utterance, _ in read_utterances(stream, keep_samples=1 << 30):
                assert utterance is not None and utterance.waveform is not None
                waveforms.append(utterance.waveform)
    return waveforms


def make_utterances(count: int) -> list[np.ndarray]:
    """Speech of `count` lengths spread evenly from 2 to 20 s, in an order that mixes them."""
    speech = np.concatenate(read_waveforms([str(SPEECH)]))
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


def write_container(folder: Path, name: str, waves: list[np.ndarray], repeats: int) -> Path:
    """A shard of all utterances, `repeats` times, in one container."""
    kind, path = CONTAINERS[name], folder / f"{name}.tar"
    files = []
    for wave in waves:
        sound = wave / np.abs(wave).max() * 0.8
        if kind.rate != SAMPLE_RATE:
            sound = soxr.resample(sound, SAMPLE_RATE, kind.rate)
        file = io.BytesIO()
        soundfile.write(file, sound, kind.rate, format=kind.format, subtype=kind.subtype)
        files.append(file.getvalue())
    tar = TarWriter(path)
    for repeat in range(repeats):
        for number, data in enumerate(files):
            tar.add(f"{repeat}-{number}.{kind.ending}", data)
    tar.close()
    return path
