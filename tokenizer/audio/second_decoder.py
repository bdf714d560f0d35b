"""What libsndfile does not decode, by FFmpeg's libraries in PyAV, which is an optional package.

FFmpeg is told which container it is and sees only the part's bytes, so that it neither guesses nor
opens anything else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenizer.audio.containers.parts import Part
from tokenizer.audio.reasons import EMPTY, NEEDS_AV, NOT_AUDIO, TRUNCATED, UNCHECKED, AudioError

# Samples of a block, over all channels: 2 MB of float32. Of libsndfile's blocks too.
BLOCK_SAMPLES = 1 << 19
# A container's duration is rounded, and counts what a codec needs before and after the sound.
DURATION_SHARE, DURATION_SLACK = 0.98, 0.1
WITH_DURATIONS = ("mov", "matroska", "asf")


@dataclass
class Sound:
    """An open stream. channels: of its first block. blocks: (n, channels) float32, in order."""

    sample_rate: int
    channels: int
    blocks: Iterator[np.ndarray]


def open_media(part: Part) -> Sound:
    """Open a part with FFmpeg's libraries.

    Raises AudioError(NEEDS_AV) where PyAV is not installed, NOT_AUDIO when FFmpeg finds no audio,
    EMPTY when that has no samples; TRUNCATED while blocks are read.
    """
    try:
        import av
    except ImportError as error:
        detail = f"{part.format} audio needs the package av: pip install 'wavmill[media]'"
        raise AudioError(NEEDS_AV, detail) from error
    part.file.seek(0)
    try:
        container = av.open(part.file, mode="r", format=part.format, metadata_errors="ignore")
    except av.FFmpegError as error:
        raise AudioError(NOT_AUDIO, f"FFmpeg: {error}") from error
    if not container.streams.audio or container.streams.audio[0].codec_context is None:
        container.close()
        raise AudioError(NOT_AUDIO, "the file has no audio stream that FFmpeg decodes")
    frames = _frames(container, part, av.FFmpegError)
    first = next(frames, None)
    if first is None:
        raise AudioError(EMPTY)
    return Sound(first[0], first[1].shape[1], _blocks(first, frames))


def _frames(container: Any, part: Part, failure: type[Exception]) -> Iterator[tuple[int, Any]]:
    """(sample rate, (n, channels) float32) of every frame of the first audio stream."""
    with container:
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        packets = samples = 0
        rate = stream.sample_rate or 1
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                for frame in packet.decode():
                    rate = frame.sample_rate
                    samples += frame.samples
                    if frame.samples:
                        yield rate, _array(frame)
        except failure as error:
            if samples < part.least_samples or not part.least_samples:
                raise AudioError(TRUNCATED, f"decoding stopped: {error}") from error
        if packets < (stream.frames if part.format == "mov" else 0):
            raise AudioError(TRUNCATED, f"{packets} of {stream.frames} packets are there")
        seconds = _claimed_seconds(container, stream, part.format)
        if samples / rate < DURATION_SHARE * seconds - DURATION_SLACK:
            detail = f"{samples / rate:.1f} of {seconds:.1f} seconds could be decoded"
            raise AudioError(TRUNCATED, detail)
        if samples < part.least_samples:
            raise AudioError(TRUNCATED, f"{samples} of {part.least_samples} samples are there")


def _claimed_seconds(container: Any, stream: Any, form: str) -> float:
    """How long the header says that the stream is; 0 if it does not."""
    if form not in WITH_DURATIONS:
        return 0.0  # FFmpeg's guess, from the bit rate
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # The container's duration is that of its longest stream.
    alone = len(container.streams) == 1
    return container.duration / 1e6 if alone and container.duration else 0.0


def _array(frame: Any) -> np.ndarray:
    """(n, channels) float32 in [-1, 1]."""
    array = frame.to_ndarray()
    samples = array.T if frame.format.is_planar else array.reshape(frame.samples, -1)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - 128) / 128
    return samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.itemsize - 1))


def _blocks(
    first: tuple[int, np.ndarray], frames: Iterator[tuple[int, np.ndarray]]
) -> Iterator[np.ndarray]:
    """Frames joined into blocks."""
    rate, kept, samples = first[0], [first[1]], len(first[1])
    for frame_rate, frame in frames:
        if frame_rate != rate:
            raise AudioError(UNCHECKED, f"the sample rate changes from {rate} to {frame_rate} Hz")
        if frame.shape[1] != kept[0].shape[1] or samples * frame.shape[1] >= BLOCK_SAMPLES:
            yield np.concatenate(kept)
            kept, samples = [], 0
        kept.append(frame)
        samples += len(frame)
    yield np.concatenate(kept)
