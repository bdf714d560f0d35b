"""Measure the peak memory of each process of jobs/tokenize.py on inputs of very different shapes.

The driver, the shard task and the encoder are looked at while the job runs: what the system counts
as their peak. The tokenizer has random weights and is very small, so that hours of audio take a
minute; an encoder's memory is otherwise that of its model and of one batch. Linux only.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import WavLMConfig, WavLMModel

from jobs.bench.support.processes import peaks
from jobs.bench.support.speech import SPEECH, read_waveforms
from jobs.cli import flags
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.tars import TarWriter
from tokenizer.storage.tokenizer_files import TokenizerFiles

# What a process is called in the table, and the beginning of its title.
PROCESSES = {"shard task": "ray::tokenize_shard", "encoder": "ray::EncoderActor"}
CODES, ENCODED_SECONDS = 64, 60
# (container, libsndfile's encoding) of the formats that it writes.
SNDFILE = {
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
}
# (container, codec, options) of those that PyAV writes: libsndfile's Opus is slow to encode.
FFMPEG = {"opus": ("ogg", "libopus", {"compression_level": "0"}), "m4a": ("mp4", "aac", {})}
Make = Callable[[Path, np.ndarray], None]


def stub(folder: Path) -> None:
    """A tokenizer of random weights that takes a thousandth of real time."""
    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    WavLMModel(config).save_pretrained(folder / "encoder")
    encoder_config, encoder = read_encoder(folder / "encoder", 1)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    weights["codebook.codes"] = torch.randn(CODES, 32)
    TokenizerFiles(encoder_config, "l2", weights).save(folder / "tokenizer")


def utterances(count: int, seconds: float, *, form: str, channels: int = 1) -> Make:
    """Makes a shard of so many utterances, each of another place of the speech."""

    def make(path: Path, wave: np.ndarray) -> None:
        tar, length = TarWriter(path), int(seconds * SAMPLE_RATE)
        for number in range(count):
            start = number * 7919 % (len(wave) - length)
            piece = np.stack([wave[start : start + length]] * channels, axis=1)
            file = io.BytesIO()
            soundfile.write(file, piece, SAMPLE_RATE, "PCM_16", format=form)
            tar.add(f"u{number:06d}.{form}", file.getvalue())
        tar.close()

    return make


def long_recording(form: str, hours: float) -> Make:
    """Makes a shard of one utterance of so many hours."""

    def make(path: Path, wave: np.ndarray) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            sound = Path(scratch, f"long.{form}")
            write = _write_ffmpeg if form in FFMPEG else _write_sndfile
            write(sound, _seconds(wave, int(hours * 3600)))
            tar = TarWriter(path)
            with sound.open("rb") as file:
                tar.add_file(sound.name, file, sound.stat().st_size)
            tar.close()

    return make


def _seconds(wave: np.ndarray, count: int) -> Iterator[np.ndarray]:
    whole = len(wave) // SAMPLE_RATE
    for number in range(count):
        start = number % whole * SAMPLE_RATE
        yield wave[start : start + SAMPLE_RATE]


def _write_sndfile(path: Path, blocks: Iterator[np.ndarray]) -> None:
    form, encoding = SNDFILE[path.suffix[1:]]
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, encoding, format=form) as sound:
        for block in blocks:
            sound.write(block)


def _write_ffmpeg(path: Path, blocks: Iterator[np.ndarray]) -> None:
    """Encodes as much as there is of the speech, and writes its packets again and again."""
    import av  # an optional package

    form, codec, options = FFMPEG[path.suffix[1:]]
    packets: list[Any] = []
    with av.open(str(path), "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=SAMPLE_RATE, layout="mono", options=options)
        for number, block in enumerate(blocks):
            if number < ENCODED_SECONDS:
                frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = SAMPLE_RATE, number * SAMPLE_RATE
                packets += stream.encode(frame)
        length = packets[1].pts - packets[0].pts
        repeats = -(-(number + 1) // ENCODED_SECONDS)
        for place in range(repeats * len(packets)):
            first = packets[place % len(packets)]
            packet = av.Packet(bytes(first))
            packet.stream, packet.time_base = stream, first.time_base
            packet.pts = packet.dts = place * length
            packet.duration = length
            container.mux(packet)


INPUTS: dict[str, Make] = {
    "20 utterances of 10 s, flac": utterances(20, 10, form="flac"),
    "20,000 utterances of 1 s, flac": utterances(20_000, 1, form="flac"),
    **{f"one of 6 hours, {form}": long_recording(form, 6) for form in (*SNDFILE, *FFMPEG)},
    "2.0 GB of utterances of 20 s, wav": utterances(400, 20, form="wav", channels=8),
}


def job(source: Path, output: str, tokenizer: str) -> list[str]:
    """The command line of jobs/tokenize.py."""
    where = ["--input", str(source), "--output", output, "--tokenizer", tokenizer]
    return [sys.executable, "jobs/tokenize.py", *where, "--encoders=1", "--cpus-per-encoder=1"]


def main() -> int:
    """Make each input, run the job on it, and print a row."""
    parser = flags.parser(__doc__, "python jobs/bench/memory.py --rows '20 utterances'")
    parser.add_argument(
        "--rows", nargs="+", metavar="TEXT", help="only rows whose name has one of these in it"
    )
    parser.add_argument(
        "--folder", metavar="FOLDER", help="keep the inputs here (12 GB), and take what is there"
    )
    args = parser.parse_args()
    wanted = [n for n in INPUTS if not args.rows or any(text in n for text in args.rows)]
    print(f"| one shard of | size | {' | '.join(['driver', *PROCESSES])} |")
    print("| --- " * (3 + len(PROCESSES)) + "|", flush=True)
    with tempfile.TemporaryDirectory(prefix="wm-", dir="/tmp") as scratch:  # short: Ray's sockets
        folder = Path(args.folder or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        stub(Path(scratch))
        wave = np.concatenate(read_waveforms([str(SPEECH)]))
        for number, name in enumerate(wanted):
            path = folder / f"{name.replace(' ', '-').replace(',', '')}.tar"
            if not path.exists():
                INPUTS[name](path.with_suffix(".new"), wave)
                path.with_suffix(".new").rename(path)
            found = peaks(
                job(path, f"{scratch}/out-{number}", f"{scratch}/tokenizer"),
                {**os.environ, "TMPDIR": scratch, "RAY_TMPDIR": scratch},
                PROCESSES,
            )
            figures = [f"{peak:,.0f} MB" for peak in found.values()]
            size = f"{path.stat().st_size / 1e6:,.0f} MB"
            print(f"| {name} | {size} | {' | '.join(figures)} |", flush=True)
            if not args.folder:
                path.unlink()
    return 0


if __name__ == "__main__":
    flags.run(main)
