"""Audio files → 16 kHz mono, block by block, so that hours of audio fit in little memory.

libsndfile (through soundfile) decodes flac, wav, ogg, opus, mp3 and older containers; PyAV, where
it is installed, what libsndfile does not (second_decoder.py). Before either, containers/ looks for
all the sound that a file holds, so that none is lost without a word. soxr resamples block by block
and gives the same samples as a single call. What has one channel of 16-bit samples at 16 kHz can
stay as it is: half the bytes, and the same values.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

import numpy as np
import soundfile

from tokenizer.audio.containers.find import find_parts
from tokenizer.audio.containers.parts import Part
from tokenizer.audio.frames import SAMPLE_RATE, num_frames
from tokenizer.audio.mixing import Mixer
from tokenizer.audio.reasons import (
    EMPTY,
    NOT_AUDIO,
    TOO_LONG,
    TOO_MANY_CHANNELS,
    TOO_SHORT,
    TRUNCATED,
    UNCHECKED,
    AudioError,
)
from tokenizer.audio.resampling import INT16_STEP, as_float, resample
from tokenizer.audio.sample_file import SampleFile
from tokenizer.audio.second_decoder import BLOCK_SAMPLES, Sound, open_media

# Speech has no lower sample rate, and a damaged header must not become hours of resampled audio.
LOWEST_RATE = 1000
MOST_CHANNELS = 64
# Below half a step of 16 bits everywhere: no sound at all.
SILENCE = 2.0**-16
UNSUPPORTED_ENCODING = 4  # libsndfile's SF_ERR_UNSUPPORTED_ENCODING


@dataclass
class Utterance:
    """One utterance after a first pass over its audio.

    sample_rate, duration_s: of the source. samples: length at 16 kHz.
    mean, scale: (x - mean) * scale has zero mean and unit variance over the whole utterance.
    waveform: (samples,) float32 at 16 kHz, or int16; None if it was too long to be kept in memory.
    is_int16: whether waveform and blocks are int16, in steps of 2^-15. on_disk: the samples in
    place of a waveform. file: the source, which is decoded again where neither was kept.
    silent: whether no sample differs from zero: digital silence.
    """

    sample_rate: int
    duration_s: float
    samples: int
    mean: float
    scale: float
    waveform: np.ndarray | None
    file: BinaryIO | None = None
    on_disk: SampleFile | None = None
    silent: bool = False
    is_int16: bool = False

    @property
    def num_frames(self) -> int:
        """Frames of 20 ms, of an encoder without left padding."""
        return num_frames(self.samples)

    def blocks(self, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
        """The waveform once more, in order, as float32 pieces, or int16 ones at 16 kHz.

        At another rate than 16 kHz the source is decoded again, and resampled to that rate.
        """
        if self.waveform is not None and sample_rate == SAMPLE_RATE:
            return iter([self.waveform])
        if self.on_disk is not None and sample_rate == SAMPLE_RATE:
            return self.on_disk.blocks()
        if self.file is None:
            raise ValueError("neither waveform nor file was kept")
        return resample(*decode(self.file, keep_int16=self.is_int16), sample_rate)


def read_utterance(
    file: BinaryIO,
    keep_samples: int,
    max_seconds: float | None = None,
    *,
    keep_int16: bool = False,
) -> Utterance:
    """Decode a whole file once, to check it and to measure its length, mean and variance.

    file: seekable, binary. keep_samples: a waveform of up to so many samples at 16 kHz is kept in
    memory, a longer one on local disk.
    max_seconds: longer audio is rejected as soon as so much was decoded; None takes any length.
    keep_int16: as in `decode`. Raises AudioError, with its reason, for audio that cannot be
    tokenized.
    """
    blocks, sample_rate = decode(file, keep_int16=keep_int16)
    source_samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal source_samples
        for block in blocks:
            source_samples += len(block)
            if max_seconds is not None and source_samples > max_seconds * sample_rate:
                raise AudioError(TOO_LONG, f"over {max_seconds:g} seconds")
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
    """Length, mean and scale of 16 kHz blocks. Sums are float64, exact enough for hours.

    Blocks are float32 or int16; the waveform is int16 where all of them are.
    """
    kept: list[np.ndarray] | None = []
    on_disk: SampleFile | None = None
    count, total, squares, silent, is_int16 = 0, 0.0, 0.0, True, True
    for block in blocks:
        count += len(block)
        # Powers of two change no bit: the sums are those of the same block in float32.
        step = INT16_STEP if block.dtype == np.int16 else 1.0
        is_int16 = is_int16 and block.dtype == np.int16
        wide = block.astype(np.float64)
        total += float(wide.sum()) * step
        squares += float(np.dot(wide, wide)) * step**2
        # Nearly always the power says so already.
        silent = (
            silent
            and squares < count * SILENCE**2
            and bool((np.abs(as_float(block)) < SILENCE).all())
        )
        if kept is not None:
            kept.append(block)
            if count > keep_samples:
                on_disk, kept = _moved_to_disk(kept), None
        elif on_disk is not None and not on_disk.write(block):
            on_disk = None
    mean = total / max(count, 1)
    variance = max(squares / max(count, 1) - mean * mean, 0.0)
    is_int16 = is_int16 and count > 0
    waveform = None if kept is None else joined(kept, is_int16)
    # 1e-7 as in Hugging Face's Wav2Vec2FeatureExtractor, with which WavLM was trained.
    scale = 1.0 / (variance + 1e-7) ** 0.5
    return Utterance(
        SAMPLE_RATE,
        count / SAMPLE_RATE,
        samples=count,
        mean=mean,
        scale=scale,
        waveform=waveform,
        on_disk=on_disk,
        silent=silent,
        is_int16=is_int16,
    )


def _moved_to_disk(blocks: list[np.ndarray]) -> SampleFile | None:
    """None where they cannot be kept there: then they are decoded again."""
    try:
        file = SampleFile(blocks[0].dtype)
    except OSError:
        return None
    return file if all(file.write(block) for block in blocks) else None


def joined(blocks: Iterable[np.ndarray], is_int16: bool) -> np.ndarray:
    """Blocks → one waveform, float32 unless all of them are int16."""
    if is_int16:
        return np.concatenate(list(blocks))
    return np.concatenate([np.empty(0, np.float32), *map(as_float, blocks)])


def decode(file: BinaryIO, *, keep_int16: bool = False) -> tuple[Iterator[np.ndarray], int]:
    """Mono float32 blocks at the file's own rate, and that rate. Channels are averaged.

    Streams that are joined in one file follow each other, at the rate of the first. keep_int16:
    blocks of one channel of 16-bit samples at 16 kHz are int16. Raises AudioError, at once or while
    blocks are read: whatever the container, a decoder or the samples show. Where audio is cut, what
    there is of it may come first, and then the error.
    """
    sounds, rate = _opened(file, keep_int16)
    return _mono(sounds, rate), rate


def decode_channels(file: BinaryIO) -> tuple[Iterator[np.ndarray], int]:
    """As `decode`, with all channels: (n, channels) float32 blocks, and their rate.

    Samples that are not finite are passed on. Of joined streams each may have other channels.
    """
    sounds, rate = _opened(file, keep_int16=False)
    blocks = (
        block
        for sound in sounds
        for block in resample(sound.blocks, sound.sample_rate, new_rate=rate)
    )
    return blocks, rate


def _opened(file: BinaryIO, keep_int16: bool) -> tuple[Iterator[Sound], int]:
    """The streams of a file, each opened when the one before is read; and the first one's rate."""
    sounds = (_open(part, keep_int16) for part in _parts(file))
    first = next(sounds, None)
    if first is None:
        raise AudioError(EMPTY)
    return chain([first], sounds), first.sample_rate


def _mono(sounds: Iterable[Sound], rate: int) -> Iterator[np.ndarray]:
    mixer = Mixer()
    for sound in sounds:
        blocks = map(mixer.mix, sound.blocks)
        yield from resample(blocks, sound.sample_rate, new_rate=rate)
    mixer.check()


def _parts(file: BinaryIO) -> Iterator[Part]:
    try:
        yield from find_parts(file)
    except AudioError as error:
        if error.reason != NOT_AUDIO:
            raise
        file.seek(0)
        try:
            with soundfile.SoundFile(file) as sound:
                detail = f"nothing tells whether a {sound.format} is whole; convert it to FLAC"
        except soundfile.LibsndfileError:
            raise error from None
        raise AudioError(UNCHECKED, detail) from error


def _open(part: Part, keep_int16: bool) -> Sound:
    """A part, opened by libsndfile, or else by FFmpeg. Raises AudioError."""
    sound = _open_sndfile(part, keep_int16) if part.sndfile else open_media(part)
    if sound.sample_rate < LOWEST_RATE:
        raise AudioError(NOT_AUDIO, f"its sample rate is {sound.sample_rate} Hz")
    if sound.channels > MOST_CHANNELS:
        raise AudioError(TOO_MANY_CHANNELS, f"{sound.channels}, of {MOST_CHANNELS} at most")
    return sound


def _open_sndfile(part: Part, keep_int16: bool) -> Sound:
    part.file.seek(0)
    try:
        sound = soundfile.SoundFile(part.file)
    except soundfile.LibsndfileError as error:
        if error.code == UNSUPPORTED_ENCODING:
            return open_media(part)
        raise AudioError(NOT_AUDIO, str(error)) from error
    if sound.frames < part.least_samples:
        sound.close()
        detail = f"{sound.frames} of {part.least_samples} samples could be read"
        raise AudioError(TRUNCATED, detail)
    is_int16 = sound.subtype == "PCM_16" and (sound.samplerate, sound.channels) == (SAMPLE_RATE, 1)
    dtype = "int16" if keep_int16 and is_int16 else "float32"
    return Sound(sound.samplerate, sound.channels, _read_blocks(sound, dtype))


def _read_blocks(sound: soundfile.SoundFile, dtype: str) -> Iterator[np.ndarray]:
    with sound:
        claimed, seen = sound.frames, 0
        step = max(1, BLOCK_SAMPLES // sound.channels)
        # soundfile seeks after each read of a seekable file, which some decoders cannot.
        sound._info.seekable = 0
        while seen < claimed:
            try:
                # No more than is claimed: what lies behind the last sample may be no audio. Only
                # 16-bit samples as int16: a float file would give zeros without an error.
                count = min(step, claimed - seen)
                block = sound.read(count, dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(TRUNCATED, f"decoding stopped: {error}") from error
            if not len(block):
                raise AudioError(TRUNCATED, f"{seen} of {claimed} samples could be read")
            seen += len(block)
            yield block
