"""Audio files → 16 kHz mono, block by block, so that hours of audio fit in little memory.

libsndfile (through soundfile) decodes flac, wav, ogg, opus and mp3. soxr resamples block by block
and gives the same samples as a single call.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from tokenizer.audio.frames import SAMPLE_RATE, num_frames
from tokenizer.audio.mp3 import length_frame

# Samples of a block, over all channels: 2 MB of float32.
BLOCK_SAMPLES = 1 << 19

# Speech has no lower sample rate, and a damaged header must not become hours of resampled audio.
LOWEST_RATE = 1000
LARGEST_OGG_PAGE = 65_307  # bytes
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's length of a flac that was written to a pipe

NOT_AUDIO = "not_audio"
TRUNCATED = "truncated_audio"
EMPTY = "empty_audio"
NOT_FINITE = "not_finite"
TOO_SHORT = "too_short"


class AudioError(ValueError):
    """Audio that cannot be tokenized. `reason` is one of the constants of this module."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass
class Utterance:
    """One utterance after a first pass over its audio.

    sample_rate, duration_s: of the source. samples: length at 16 kHz.
    mean, scale: (x - mean) * scale has zero mean and unit variance over the whole utterance.
    waveform: (samples,) float32 at 16 kHz; None if it was too long to be kept.
    file: the source, which is decoded again where the waveform was not kept.
    """

    sample_rate: int
    duration_s: float
    samples: int
    mean: float
    scale: float
    waveform: np.ndarray | None
    file: BinaryIO | None = None

    @property
    def num_frames(self) -> int:
        """Frames of 20 ms, of an encoder without left padding."""
        return num_frames(self.samples)

    def blocks(self, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
        """The waveform once more, in order, as float32 pieces.

        At another rate than 16 kHz the source is decoded again, and resampled to that rate.
        """
        if self.waveform is not None and sample_rate == SAMPLE_RATE:
            return iter([self.waveform])
        if self.file is None:
            raise ValueError("neither waveform nor file was kept")
        return resample(*decode(self.file), sample_rate)


def read_utterance(file: BinaryIO, keep_samples: int) -> Utterance:
    """Decode a whole file once, to check it and to measure its length, mean and variance.

    file: seekable, binary. keep_samples: the waveform is kept if it has no more samples at 16 kHz.
    Raises AudioError, with its reason, for audio that cannot be tokenized.
    """
    blocks, sample_rate = decode(file)
    source_samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal source_samples
        for block in blocks:
            source_samples += len(block)
            yield block

    utterance = measure(resample(counted(), sample_rate), keep_samples)
    if not source_samples:
        raise AudioError(EMPTY)
    if utterance.num_frames < 1:
        raise AudioError(TOO_SHORT, f"{utterance.samples} samples at 16 kHz; 400 are needed")
    utterance.sample_rate = sample_rate
    utterance.duration_s = source_samples / sample_rate
    utterance.file = file
    return utterance


def measure(blocks: Iterable[np.ndarray], keep_samples: int) -> Utterance:
    """Length, mean and scale of 16 kHz blocks. Sums are float64, exact enough for hours."""
    kept: list[np.ndarray] | None = []
    count, total, squares = 0, 0.0, 0.0
    for block in blocks:
        count += len(block)
        wide = block.astype(np.float64)
        total += float(wide.sum())
        squares += float(np.dot(wide, wide))
        if kept is not None and count <= keep_samples:
            kept.append(block)
        else:
            kept = None
    mean = total / max(count, 1)
    variance = max(squares / max(count, 1) - mean * mean, 0.0)
    waveform = None if kept is None else np.concatenate([np.empty(0, np.float32), *kept])
    # 1e-7 as in Hugging Face's Wav2Vec2FeatureExtractor, with which WavLM was trained.
    scale = 1.0 / (variance + 1e-7) ** 0.5
    return Utterance(
        SAMPLE_RATE, count / SAMPLE_RATE, samples=count, mean=mean, scale=scale, waveform=waveform
    )


def decode(file: BinaryIO) -> tuple[Iterator[np.ndarray], int]:
    """Mono float32 blocks at the file's own rate, and that rate. Channels are averaged.

    Raises AudioError: NOT_AUDIO at once; TRUNCATED, NOT_FINITE or NOT_AUDIO while blocks are read.
    """
    sound = _open(file)
    if sound.format == "MP3":
        file.seek(0)
        data = file.read()
        if (info := length_frame(data)) is not None:
            file = io.BytesIO(info + data)
        sound = _open(file)  # again, because reading has moved the position in the file
    if sound.samplerate < LOWEST_RATE:
        raise AudioError(NOT_AUDIO, f"its sample rate is {sound.samplerate} Hz")
    return _read_blocks(sound, file), sound.samplerate


def _open(file: BinaryIO) -> soundfile.SoundFile:
    file.seek(0)
    try:
        return soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        raise AudioError(NOT_AUDIO, str(error)) from error


def _read_blocks(sound: soundfile.SoundFile, file: BinaryIO) -> Iterator[np.ndarray]:
    with sound:
        claimed, seen = sound.frames, 0
        step = max(1, BLOCK_SAMPLES // sound.channels)
        cut = _says_truncated(sound, file)
        # soundfile seeks after each read of a seekable file. At the end of a flac that was written
        # to a pipe that fails, and sequential reading needs no seek.
        sound._info.seekable = 0
        while True:
            try:
                # Always float32: reading a float file as int16 gives zeros without an error.
                block = sound.read(step, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(TRUNCATED, f"decoding stopped: {error}") from error
            if not len(block):
                break
            seen += len(block)
            yield mixed_down(block)
        if cut or seen < claimed != UNKNOWN_LENGTH:
            raise AudioError(TRUNCATED, f"{seen} of {claimed} samples could be read")


def mixed_down(block: np.ndarray) -> np.ndarray:
    """(n, channels) float32 → (n,), the channels' mean. Raises AudioError(NOT_FINITE)."""
    mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(NOT_FINITE)
    return mono


def _says_truncated(sound: soundfile.SoundFile, file: BinaryIO) -> bool:
    """Whether a wav's header or an ogg's last page shows that the end is missing.

    libsndfile shortens such files without an error, and reports the shorter length.
    """
    if sound.format in ("WAV", "WAVEX"):
        for line in sound.extra_info.splitlines():
            if line.strip().startswith("data") and "should be" in line:
                claimed, real = (int(part.split()[0]) for part in _numbers(line))
                # A header written to a pipe claims the largest possible size; nothing is missing.
                return real < claimed < 0x7FFFF000
    if sound.format == "OGG":
        position = file.tell()
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 * LARGEST_OGG_PAGE))
        tail = file.read()
        file.seek(position)
        return not _ends_with_last_page(tail)
    return False


def _ends_with_last_page(tail: bytes) -> bool:
    """Whether an Ogg stream's last page (RFC 3533) has the end-of-stream flag and is complete."""
    start = tail.rfind(b"OggS")
    page = tail[start:] if start >= 0 else b""
    if len(page) < 27 or not page[5] & 0x04:
        return False
    segments = page[26]
    return len(page) >= 27 + segments + sum(page[27 : 27 + segments])


def _numbers(line: str) -> tuple[str, str]:
    claimed, _, real = line.partition(":")[2].partition("(should be")
    return claimed, real.rstrip(") ")


def resample(
    blocks: Iterable[np.ndarray], sample_rate: int, new_rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """Mono blocks at any rate → mono float32 blocks at a new one, 16 kHz unless given."""
    if sample_rate == new_rate:
        yield from blocks
        return
    try:
        stream = soxr.ResampleStream(sample_rate, new_rate, 1, "float32", "HQ")
    except (ValueError, RuntimeError) as error:
        raise AudioError(NOT_AUDIO, f"cannot resample from {sample_rate} Hz: {error}") from error
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)
