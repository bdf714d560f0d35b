"""Every container, whole and damaged: what is made of it against what FFmpeg decodes.

`python -m tests.faults.containers` prints a table of forms and damages; its last line counts the
rows that are ok with under 98 % of the speech, and the status is 1 if there is one. With the word
`short` it prints what docs/containers.md has: a row a form. FFmpeg is that of PyAV; without it the
forms that libsndfile writes are held against the speech alone.
"""

import io
import struct
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from tokenizer.audio.containers.riff import header
from tokenizer.audio.decoding import AudioError, decode

try:
    import av
except ImportError:
    av = None

RATE = 16_000
LEAST_SHARE = 0.98
CUTS = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 0.995)
# name: (libsndfile's format, its encoding, the container's name in FFmpeg)
SNDFILE = {
    "flac": ("FLAC", "PCM_16", "flac"),
    "wav": ("WAV", "PCM_16", "wav"),
    "wav float": ("WAV", "FLOAT", "wav"),
    "wav µ-law": ("WAV", "ULAW", "wav"),
    "wav ADPCM": ("WAV", "MS_ADPCM", "wav"),
    "wav GSM": ("WAV", "GSM610", "wav"),
    "wavex": ("WAVEX", "PCM_16", "wav"),
    "rf64": ("RF64", "PCM_16", "wav"),
    "w64": ("W64", "PCM_16", "w64"),
    "aiff": ("AIFF", "PCM_16", "aiff"),
    "aiff float": ("AIFF", "FLOAT", "aiff"),
    "au": ("AU", "PCM_16", "au"),
    "nist": ("NIST", "PCM_16", "nistsphere"),
    "voc": ("VOC", "PCM_16", "voc"),
    "svx": ("SVX", "PCM_16", "iff"),
    "caf": ("CAF", "PCM_16", "caf"),
    "caf ALAC": ("CAF", "ALAC_16", "caf"),
    "vorbis": ("OGG", "VORBIS", "ogg"),
    "opus": ("OGG", "OPUS", "ogg"),
    "mp3": ("MP3", "MPEG_LAYER_III", "mp3"),
}
# name: (FFmpeg's muxer, encoder, options of the muxer, demuxer)
FFMPEG = {
    "flac in ogg": ("ogg", "flac", {}, "ogg"),
    "flac in mkv": ("matroska", "flac", {}, "matroska"),
    "webm": ("webm", "libopus", {}, "matroska"),
    "webm live": ("webm", "libopus", {"live": "1"}, "matroska"),
    "m4a": ("mp4", "aac", {}, "mov"),
    "mp4 in fragments": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}, "mov"),
    "mov": ("mov", "alac", {}, "mov"),
    "aac": ("adts", "aac", {}, "aac"),
    "wma": ("asf", "wmav2", {}, "asf"),
    "mp2": ("mp2", "mp2", {}, "mp3"),
}
# These do not say how long they are: what a cut leaves is all that anybody can know of.
WITHOUT_LENGTH = {
    "wav of a dead recorder",
    "rf64 from a pipe",
    "au from a pipe",
    "aac",
    "webm live",
}
WITHOUT_LENGTH |= {"mp3 without a tag", "mp4 in fragments", "flac from a pipe", "mp2", "mp3 in wav"}


@dataclass(frozen=True)
class Row:
    """One file. seconds: of speech that was decoded, None if it was refused for `outcome`.

    ffmpeg: seconds that FFmpeg decodes. speech: seconds that there were before the damage.
    """

    form: str
    damage: str
    outcome: str
    seconds: float | None
    ffmpeg: float
    speech: float

    @property
    def lost(self) -> bool:
        """Whether it is ok with too little of the speech."""
        return self.seconds is not None and self.seconds < LEAST_SHARE * max(
            self.ffmpeg, self.speech
        )


def forms(wave: np.ndarray) -> Iterator[tuple[str, bytes, str]]:
    """(name, a file with this sound, its demuxer) of every form that can be written here."""
    files = {}
    for name, (form, encoding, demuxer) in SNDFILE.items():
        file = io.BytesIO()
        soundfile.write(file, wave, RATE, format=form, subtype=encoding)
        files[name] = file.getvalue()
        yield name, files[name], demuxer
    flac, mp3, wav = bytearray(files["flac"]), files["mp3"], bytearray(files["wav"])
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])
    yield "flac from a pipe", bytes(flac), "flac"
    yield "mp3 without a tag", mp3[mp3.index(mp3[:2], 4) :], "mp3"
    fmt = struct.pack("<HHIIHHHHIHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 288, 1) + b"\0\0"
    yield "mp3 in wav", header(fmt, len(mp3), order="<") + mp3, "wav"
    at = wav.index(b"data") + 4
    yield "wav of a dead recorder", bytes(wav[:at]) + bytes(4) + bytes(wav[at + 4 :]), "wav"
    rf64, au = bytearray(files["rf64"]), files["au"]
    rf64[20:44] = bytes(24)
    yield "rf64 from a pipe", bytes(rf64), "wav"
    yield "au from a pipe", au[:8] + b"\xff\xff\xff\xff" + au[12:], "au"
    if av is not None:
        for name, (muxer, encoder, options, demuxer) in FFMPEG.items():
            yield name, muxed(wave, muxer, encoder=encoder, options=options), demuxer


def muxed(wave: np.ndarray, muxer: str, *, encoder: str, options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, options=options) as container:
        stream = container.add_stream(encoder, rate=48_000 if encoder == "libopus" else RATE)
        stream.codec_context.layout = "mono"
        stream.codec_context.bit_rate = 48_000
        frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts = RATE, 0
        frame_size = stream.codec_context.frame_size or 0
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", stream.rate, frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def damages(
    data: bytes, second: bytes, speech: float, whole: float
) -> Iterator[tuple[str, bytes, float]]:
    """(name, damaged file, seconds of speech that were there) of one file.

    second: another file of the form. whole: seconds of both together. speech: of the first.
    """
    noise = np.random.default_rng(0).bytes(3000)
    yield "whole", data, speech
    for cut in CUTS:
        yield f"cut at {100 * cut:g} %", data[: int(len(data) * cut)], speech
    yield "joined", data + second, whole
    yield "ID3v2 before", b"ID3\4\0\0\0\0\7\x76" + bytes(1014) + data, speech
    yield "zeros before", bytes(5000) + data, speech
    yield "text before", b"HTTP/1.1 200 OK\r\n\r\n" + data, speech
    yield "noise before", noise + data, speech
    yield "ID3v1 behind", data + b"TAG".ljust(128, b"\0"), speech
    yield "newline behind", data + b"\n", speech
    yield "zeros behind", data + bytes(5000), speech
    yield "noise behind", data + noise, speech


def judge(form: str, data: bytes, speech: float, demuxer: str) -> tuple[str, float | None, float]:
    """(outcome, seconds decoded here or None, seconds that FFmpeg decodes) of one file."""
    outcome, seconds = "ok", None
    try:
        blocks, rate = decode(io.BytesIO(data))
        seconds = sum(map(len, blocks)) / rate
    except AudioError as error:
        outcome, seconds = error.reason, None
    return outcome, seconds, _by_ffmpeg(data, demuxer)


def _by_ffmpeg(data: bytes, demuxer: str) -> float:
    """Seconds that FFmpeg decodes, past errors as its command line does."""
    if av is None:
        return 0.0
    seconds = 0.0
    try:
        with av.open(io.BytesIO(data), format=demuxer) as container:
            packets = container.demux(container.streams.audio[0])
            while (packet := _next(packets)) is not None:
                seconds += sum(frame.samples / frame.sample_rate for frame in _decoded(packet))
    except (av.FFmpegError, IndexError):
        pass
    return seconds


def _next(packets: Any) -> Any:
    try:
        return next(packets, None)
    except av.FFmpegError:
        return None


def _decoded(packet: Any) -> list[Any]:
    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def table(wave: np.ndarray, other: np.ndarray) -> Iterator[Row]:
    """A row for each form and damage. wave, other: (n,) speech at 16 kHz."""
    seconds = [len(wave) / RATE, (len(wave) + len(other)) / RATE]
    for (form, data, demuxer), (_, second, _) in zip(forms(wave), forms(other), strict=True):
        for damage, damaged, speech in damages(data, second, *seconds):
            known = 0.0 if damage.startswith("cut") and form in WITHOUT_LENGTH else speech
            outcome, decoded, ffmpeg = judge(form, damaged, speech, demuxer)
            yield Row(form, damage, outcome, decoded, min(ffmpeg, speech), known)


def speech() -> list[np.ndarray]:
    """Two utterances of the speech that ships with the tests."""
    import tarfile
    from pathlib import Path

    with tarfile.open(Path(__file__).parents[1] / "speech" / "speech-000000.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".flac")][:2]
        files = [tar.extractfile(name) for name in names]
        return [soundfile.read(io.BytesIO(f.read()), dtype="float32")[0] for f in files if f]


# What the columns of the short table are made of: endings of the damages' names.
COLUMNS = {
    "whole": "whole",
    "cut at 10 points": "%",
    "joined": "joined",
    "junk before": "before",
    "junk behind": "behind",
}


def short(rows: list[Row]) -> Iterator[str]:
    """A markdown row for each form: the outcomes of each group of damages, and FFmpeg's seconds."""
    yield f"| container | {' | '.join(COLUMNS)} |\n{'| --- ' * (1 + len(COLUMNS))}|"
    for form in dict.fromkeys(row.form for row in rows):
        cells = []
        for ending in COLUMNS.values():
            found = defaultdict(list)
            for row in rows:
                if row.form == form and row.damage.endswith(ending):
                    found[row.outcome].append(row)
            cells.append("; ".join(_group(*group) for group in found.items()))
        yield f"| {form} | {' | '.join(cells)} |"


def _group(outcome: str, rows: list[Row]) -> str:
    """Rows of one outcome: which they are, seconds here if they are ok, and FFmpeg's."""
    names = [row.damage.partition(" ")[0] for row in rows]
    which = {"cut": f"{len(rows)} × ", "whole": "", "joined": ""}.get(
        names[0], f"{', '.join(names)}: "
    )
    ours = f" {_seconds([row.seconds or 0.0 for row in rows])}" if outcome == "ok" else ""
    return f"{which}{outcome}{ours} ({_seconds([row.ffmpeg for row in rows])})"


def _seconds(values: list[float]) -> str:
    ends = dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values)))
    return " to ".join(ends)


def main(form: str = "") -> int:
    """Print the table, or the short one. Returns 1 if speech is lost in a row that is ok."""
    rows = list(table(*speech()))
    lost = sum(row.lost for row in rows)
    refused = sum(row.damage == "whole" and row.outcome != "ok" for row in rows)
    print(*(short(rows) if form == "short" else map(_line, rows)), sep="\n")
    print(
        f"\n{len(rows)} files; {lost} ok with under 98 % of the speech; "
        f"{refused} whole ones refused"
    )
    return 1 if lost or refused else 0


def _line(row: Row) -> str:
    seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
    return (
        f"{row.form:24} {row.damage:16} {row.outcome:20} {seconds:>6} {row.ffmpeg:6.2f} "
        f"{row.speech:6.2f} {'LOST' if row.lost else ''}"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(*sys.argv[1:]))
