#!/usr/bin/env python3
"""Make the small speech set in tests/speech: eight synthetic voices in three WebDataset tars.

The sentences below were written for this project, and are spoken by two free synthesisers:
espeak-ng (GPLv3, which does not reach the sound it produces) and flite with its CMU voices
(BSD-like terms). The project places the sentences and the recordings under CC0.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16_000
MARGIN = RATE // 10
PEAK = 0.7
# Fricatives at the edges of a sentence are weak. A higher threshold would cut them off.
QUIET = 0.01 * PEAK
SHARDS = 3

# Dealt to the shards in turn, in an order that gives each shard both engines, and high and low
# voices. Names become sample keys, so they have no dot, which would start the extension. Plain
# en-gb has no variant because espeak-ng 1.51 silently ignores one there.
VOICES = {
    "awb": ("flite", "-voice", "awb"),
    "kal16": ("flite", "-voice", "kal16"),
    "slt": ("flite", "-voice", "slt"),
    "rms": ("flite", "-voice", "rms", "--setf", "duration_stretch=0.9"),
    "en-us-f4": ("espeak-ng", "-v", "en-us+f4", "-s", "190", "-p", "60"),
    "en-gb": ("espeak-ng", "-v", "en-gb", "-s", "185", "-p", "35"),
    "scotland-f2": ("espeak-ng", "-v", "en-gb-scotland+f2", "-s", "195", "-p", "70"),
    "rp-m3": ("espeak-ng", "-v", "en-gb-x-rp+m3", "-s", "175", "-p", "45"),
}

# Every voice says these, so that one sentence can be compared across speakers.
SHARED = [
    "The grey heron waited by the mill until noon.",
    "Please measure the width of each shelf twice.",
    "Joyful children chased a yellow kite.",
    "How far is it to the next village?",
]

# Every fifth is short, so that each of JOINED contains a short one.
ROTATED = [
    "Good morning.",
    "A thin layer of frost covered the garden path.",
    "She poured the coffee and opened the blue envelope.",
    "Our train leaves at a quarter past seven.",
    "Vera keeps five jars of plum jam in the cellar.",
    "Thank you, that will do.",
    "The old clock in the hall is usually wrong.",
    "Why does the engine cough when it rains?",
    "Ships pass slowly under the iron bridge.",
    "He thought the weather might change by Thursday.",
    "Turn left here.",
    "Fresh bread was cooling on the kitchen table.",
    "They built a small boat out of oak and rope.",
    "Check the oil before you cross the mountains.",
    "A brown dog slept through the whole concert.",
    "Nobody answered.",
    "Zoe drew a huge orange square on the wall.",
    "The judge asked for a short pause.",
    "Nine loud geese flew south above the quiet town.",
    "I would rather walk than wait for the bus.",
]

# Long enough to be cut into several windows.
JOINED = [" ".join(ROTATED[group::4]) for group in range(4)]

SENTENCES = SHARED + ROTATED + JOINED


def sentence_numbers(turn):
    """Indices into SENTENCES of what the voice at this index in VOICES says."""
    rotated = range(len(SHARED) + turn, len(SHARED + ROTATED), len(VOICES))
    joined = len(SHARED + ROTATED) + turn % len(JOINED)
    return [*range(len(SHARED)), *rotated, joined]


def speak(voice, text, wav):
    """Synthesise a text with one voice: a signal at RATE, trimmed and normalised."""
    engine, *options = VOICES[voice]
    ending = ["-t", text, "-o", wav] if engine == "flite" else ["-w", wav, text]
    subprocess.run([engine, *options, *ending], check=True)
    recorded, rate = soundfile.read(wav)
    signal = soxr.resample(recorded, rate, RATE)
    signal *= PEAK / np.abs(signal).max()
    # Padded first, so that all clips have the same margin, whatever silence the engine added.
    padded = np.pad(signal, MARGIN)
    loud = np.flatnonzero(np.abs(padded) > QUIET)
    return padded[loud[0] - MARGIN : loud[-1] + MARGIN]


def flac(signal):
    """The bytes of a 16-bit FLAC file."""
    buffer = io.BytesIO()
    options = {"format": "FLAC", "subtype": "PCM_16", "compression_level": 1.0}
    soundfile.write(buffer, signal, RATE, **options)
    return buffer.getvalue()


def samples(voice, turn, wav):
    """(name, bytes) of each tar member of one voice."""
    for number in sentence_numbers(turn):
        key = f"{voice}-s{number:02d}"
        text = SENTENCES[number]
        about = {"speaker": voice, "engine": VOICES[voice][0], "sentence": number, "text": text}
        yield f"{key}.flac", flac(speak(voice, text, wav))
        yield f"{key}.json", json.dumps(about).encode()


def write_tar(path, members):
    """Write a tar whose bytes depend only on the names and contents of its members."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(members):
            # The defaults of TarInfo are mtime 0, uid and gid 0, no owner names, mode 0644.
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def main():
    parser = argparse.ArgumentParser(
        description="Make the speech set of the tests: three WebDataset tars of FLAC and JSON.",
        epilog="example: python tests/make_speech.py --output /tmp/speech",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent / "speech",
        help="folder for the tars (default: %(default)s)",
    )
    output = parser.parse_args().output

    if not (shutil.which("espeak-ng") and shutil.which("flite")):
        print("make_speech: missing program: apt-get install espeak-ng flite", file=sys.stderr)
        return 2

    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wav = str(Path(scratch) / "clip.wav")
        for shard in range(SHARDS):
            members = []
            # All clips of a voice are in one shard, so a split by shard is a split by speaker.
            for turn, voice in list(enumerate(VOICES))[shard::SHARDS]:
                members.extend(samples(voice, turn, wav))
            path = output / f"speech-{shard:06d}.tar"
            write_tar(path, members)
            print(f"{path}: {len(members) // 2} clips, {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
