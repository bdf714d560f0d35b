"""Measure jobs/ingest.py: cutting by VAD, memory, many rows of a manifest, and exact copies.

vad: an hour of recordings in which speech of known places follows silence, noise and music, cut in
this process on one core. memory: the job on one recording of one hour, and on one of ten. rows: the
job on a manifest of 100,000 rows over 2,000 files. copies: the job on 200,000 samples in tars, of
which a tenth are copies, in other tars and containers. Linux only.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import io
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
import soundfile
import soxr

from jobs.bench.support.processes import peaks
from jobs.bench.support.speech import SPEECH, read_waveforms
from jobs.cli import flags
from pipeline.ingest.cutting.cut import cut
from pipeline.ingest.job import segmenter_of
from pipeline.ingest.settings import VAD, IngestSettings
from pipeline.ingest.sources import Entry
from tokenizer.audio.frames import SAMPLE_RATE as RATE
from tokenizer.storage.tars import TarWriter

# A worker runs tasks of several kinds, one after the other.
TASKS = ("ingest_sources", "publish_without_copies", "_hashes", "_copies", "_joined")
PROCESSES = {"a worker": tuple(f"ray::{name}" for name in TASKS)}
# Speech is what lies between the first and the last frame of 20 ms that is less than this many dB
# under the utterance's loudest.
SPEECH_DB = 35


def trimmed(wave: np.ndarray) -> np.ndarray:
    """An utterance without what lies before and behind its speech, (n,) at 16 kHz."""
    frames = wave[: len(wave) // 320 * 320].reshape(-1, 320)
    power = 10 * np.log10((frames**2).mean(1) + 1e-12)
    loud = np.flatnonzero(power > power.max() - SPEECH_DB)
    return wave[loud[0] * 320 : (loud[-1] + 1) * 320]


def other_sound(kind: str, seconds: float, random: np.random.Generator) -> np.ndarray:
    """Silence, noise or music of so many seconds, made up."""
    count = int(seconds * RATE)
    if kind == "silence":
        return np.zeros(count, np.float32)
    if kind == "noise":  # from white to brown, from soft to loud
        spectrum = np.fft.rfft(random.standard_normal(count))
        spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** random.uniform(0, 1)
        wave = np.fft.irfft(spectrum, count)
        return (wave / wave.std() * 10 ** random.uniform(-3.5, -1)).astype(np.float32)
    return _music(count, random)


def _music(count: int, random: np.random.Generator) -> np.ndarray:
    """Chords of plucked strings on a beat, with drums."""
    wave, beat = np.zeros(count + 2 * RATE), int(random.uniform(0.25, 0.6) * RATE)
    time_s = np.arange(2 * RATE) / RATE
    for start in range(0, count, beat):
        root = 110 * 2 ** (random.choice([0, 5, 7, 9]) / 12)
        for step in random.choice([0, 4, 7, 12, 16, 19], 3, replace=False):
            pitch = root * 2 ** (step / 12)
            for harmonic in range(1, 8):
                decay = np.exp(-time_s * (1 + harmonic))
                tone = np.sin(2 * np.pi * harmonic * pitch * time_s) * decay / harmonic
                wave[start : start + 2 * RATE] += tone
        drum = random.standard_normal(RATE // 4) * np.exp(-np.arange(RATE // 4) / 800)
        wave[start : start + RATE // 4] += drum
    wave = wave[:count]
    return (wave / np.abs(wave).max() * random.uniform(0.1, 0.7)).astype(np.float32)


def glued(speech: list[np.ndarray], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """(waveform, kind of each sample): 0 speech, 1 silence, 2 noise, 3 music.

    Speech of 5 to 60 s, with pauses of up to half a second between its utterances, which count as
    speech; then 3 to 30 s of something else.
    """
    random, kinds = np.random.default_rng(0), ("silence", "noise", "music")
    parts, truth, total, number = [], [], 0, 0
    while total < seconds * RATE:
        turn = []
        for _ in range(random.integers(1, 8)):
            turn += [speech[random.integers(len(speech))]]
            turn += [np.zeros(int(random.uniform(0, 0.5) * RATE), np.float32)]
        kind = number % len(kinds)
        rest = other_sound(kinds[kind], random.uniform(3, 30), random)
        parts += [*turn[:-1], rest]
        spoken = sum(map(len, turn[:-1]))
        truth += [np.zeros(spoken, np.uint8), np.full(len(rest), 1 + kind, np.uint8)]
        total, number = total + spoken + len(rest), number + 1
    return np.concatenate(parts), np.concatenate(truth)


def measure_vad(speech: list[np.ndarray], hours: float) -> None:
    """Print what is kept of each kind of sound, and the speed."""
    for rate, form in ((RATE, "flac"), (44_100, "flac"), (44_100, "mp3")):
        wave, truth = glued(speech, 3600 * hours)
        file = io.BytesIO()
        sound = wave if rate == RATE else soxr.resample(wave, RATE, rate)
        soundfile.write(file, np.clip(sound, -1, 1), rate, format=form.upper())
        settings = IngestSettings(shard_bytes=1 << 30, segment=VAD)
        new_segmenter, entries = segmenter_of(settings), (Entry(key="a"),)
        kept = np.zeros(len(wave) + RATE, bool)
        file.seek(0)
        started, segments = time.process_time(), 0
        for piece in cut(file, entries, settings=settings, new_segmenter=new_segmenter):
            first = round(piece.start / piece.rate * RATE)
            kept[first : first + round(piece.samples / piece.rate * RATE)] = piece.problem is None
            segments += piece.problem is None
        seconds = time.process_time() - started
        kept = kept[: len(wave)]
        others = [f"{1 - kept[truth == kind].mean():.1%}" for kind in (1, 2, 3)]
        print(
            f"| {form}, {rate / 1000:g} kHz | {len(wave) / RATE / 3600:.2f} h | {segments:,} "
            f"| {kept[truth == 0].mean():.2%} | {1 - kept[truth > 0].mean():.1%} "
            f"| {' / '.join(others)} | {len(wave) / RATE / seconds:.0f} x |",
            flush=True,
        )


def run(scratch: Path, *arguments: str) -> tuple[dict[str, float], float, dict]:
    """Run the job. Returns (peak MB of its processes, seconds, its summary)."""
    output = tempfile.mkdtemp(dir=scratch)
    command = [sys.executable, "jobs/ingest.py", "--output", output, *arguments]
    env = {**os.environ, "TMPDIR": str(scratch), "RAY_TMPDIR": str(scratch)}
    started = time.monotonic()
    found = peaks(command, env, PROCESSES)
    seconds = time.monotonic() - started
    return found, seconds, json.loads(Path(output, "summary.json").read_text()) | {"at": output}


def row(name: str, found: dict[str, float], seconds: float, summary: dict) -> None:
    """Print a line of a run."""
    megabytes = [f"{peak:,.0f} MB" if peak else "" for peak in found.values()]
    samples = f"{summary['ok']:,} ok, {summary['rejected']:,} rejected"
    print(f"| {name} | {samples} | {seconds:.0f} s | {' | '.join(megabytes)} |", flush=True)


def measure_memory(scratch: Path, speech: list[np.ndarray]) -> None:
    """A recording of an hour, and one of ten."""
    wave, _ = glued(speech, 600)
    for hours in (1, 10):
        path = scratch / f"{hours}-hours.flac"
        with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
            for _ in range(6 * hours):
                file.write(np.clip(wave[: 600 * RATE], -1, 1))
        row(f"a recording of {hours} h, VAD", *run(scratch, "--input", str(path), "--segment=vad"))
        path.unlink()


def measure_rows(scratch: Path, rows: int, files: int) -> None:
    """A manifest of parts of many files."""
    random, folder = np.random.default_rng(0), scratch / "files"
    folder.mkdir()
    sound = random.integers(-3000, 3000, 60 * RATE).astype(np.int16)
    for number in range(files):
        start = random.integers(len(sound) - 10 * RATE)
        soundfile.write(folder / f"{number:06d}.flac", sound[start : start + 10 * RATE], RATE)
    with (scratch / "train.jsonl").open("w") as manifest:
        for number in random.permutation(rows):
            file, part = number % files, number // files
            line: dict[str, str | float] = {
                "audio_filepath": f"files/{file:06d}.flac",
                "offset": part * 9.5 / (rows // files),
                "duration": 0.15,
                "text": f"text of {number}",
            }
            manifest.write(json.dumps(line) + "\n")
    name = f"{rows:,} rows over {files:,} files"
    row(name, *run(scratch, "--input", str(scratch / "train.jsonl"), "--shard-size-mb=16"))


def sounds(count: int) -> Iterator[tuple[str, bytes]]:
    """(ending, content) of short samples; every tenth is the sound of an earlier one elsewhere."""
    for number in range(count):
        copy = number % 10 == 9 and number > 1000
        of = number - 999 - number % 500 if copy else number
        wave = np.random.default_rng(of).integers(-3000, 3000, RATE // 20).astype(np.int16)
        form, file = "wav" if copy else "flac", io.BytesIO()
        soundfile.write(file, wave, RATE, format=form.upper())
        yield form, file.getvalue()


def measure_copies(scratch: Path, count: int) -> None:
    """Tars of short samples with copies, and how many of the copies are found."""
    folder = scratch / f"tars-{count}"
    folder.mkdir()
    samples, copies = enumerate(sounds(count)), set()
    for first in range(0, count, 1000):
        tar = TarWriter(folder / f"{first:08d}.tar")
        for number, (ending, content) in itertools.islice(samples, 1000):
            tar.add(f"{number:08d}.{ending}", content)
            if ending == "wav":
                copies.add(f"{number:08d}")
        tar.close()
    found = run(
        scratch, "--input", str(folder), "--dedup=exact", "--shard-size-mb=1", "--max-reject-rate=1"
    )
    row(f"{count:,} samples in {len(list(folder.iterdir())):,} tars", *found)
    table = pq.read_table(Path(found[2]["at"], "manifest.parquet"), columns=["key", "reason"])
    rows = zip(table["key"].to_pylist(), table["reason"].to_pylist())
    named = {key.rpartition("/")[2] for key, reason in rows if reason == "copy"}
    print(
        f"copies: {len(copies):,}; found: {len(copies & named):,}; wrong: {len(named - copies):,}"
    )


def main() -> int:
    """Print a table for each measurement."""
    parser = flags.parser(__doc__, "python jobs/bench/ingest.py --only vad --hours 0.2")
    names = ("vad", "memory", "rows", "copies")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument(
        "--speech", nargs="+", default=[str(SPEECH)], metavar="URL", help="audio shards of speech"
    )
    parser.add_argument(
        "--hours",
        type=flags.positive_number,
        default=1.0,
        help="of sound for vad (default: %(default)s)",
    )
    parser.add_argument(
        "--rows",
        type=flags.positive,
        default=100_000,
        help="of the manifest (default: %(default)s)",
    )
    parser.add_argument(
        "--files",
        type=flags.positive,
        default=2_000,
        help="that the rows are parts of (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=flags.positive,
        default=200_000,
        help="for copies; a tenth as many are measured first (default: %(default)s)",
    )
    args = parser.parse_args()
    speech = []
    if {"vad", "memory"} & set(args.only):
        speech = [trimmed(wave) for wave in read_waveforms(args.speech, "--speech")]
    with tempfile.TemporaryDirectory(prefix="wm-", dir="/tmp") as name:  # short: Ray's sockets
        scratch = Path(name)
        if "vad" in args.only:
            print(
                "| recording | length | segments | speech kept | other sound left out "
                "| silence / noise / music | x real time, a core |\n" + "| --- " * 7 + "|"
            )
            measure_vad(speech, args.hours)
        if set(args.only) - {"vad"}:
            kinds = ["driver", *PROCESSES]
            print(f"\n| input | samples | seconds | {' | '.join(kinds)} |")
            print("| --- " * (3 + len(kinds)) + "|", flush=True)
        if "memory" in args.only:
            measure_memory(scratch, speech)
        if "rows" in args.only:
            measure_rows(scratch, args.rows, args.files)
        if "copies" in args.only:
            for count in (args.samples // 10, args.samples):
                measure_copies(scratch, count)
    return 0


if __name__ == "__main__":
    flags.run(main)
