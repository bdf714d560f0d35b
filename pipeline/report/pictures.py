"""Spectrograms and strips of tokens as PNG files, one column of tokens beside its sound."""

import colorsys
import struct
import zlib

import numpy as np
import torch
import torchaudio

from tokenizer.audio.frames import SAMPLE_RATE

# 10 ms a column, of 32 ms each.
HOP, WINDOW = 160, 512
MEL_BANDS = 72
# Below the loudest point of the picture; what is quieter is black.
RANGE_DB = 70
# From quiet to loud: a scale whose lightness grows evenly, so that it can be read in grey.
SCALE = ((9, 8, 24), (59, 15, 94), (128, 37, 125), (201, 62, 96), (247, 130, 78), (252, 236, 174))
GOLDEN_RATIO = 0.618034


def png(pixels: np.ndarray) -> bytes:
    """(height, width, 3) uint8 → a PNG file (ISO/IEC 15948), 8 bits a channel."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    # Each row begins with its filter: 0 is none.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


def spectrogram(wave: np.ndarray, seconds: float) -> bytes:
    """(n,) samples at 16 kHz → a PNG of mel bands from 0 to 8 kHz, low ones below.

    seconds: that the picture's width stands for; a longer wave is cut, a shorter one padded.
    """
    columns = max(1, round(seconds * SAMPLE_RATE / HOP))
    padded = np.zeros(columns * HOP + WINDOW, np.float32)
    length = min(len(wave), columns * HOP + WINDOW // 2)
    padded[WINDOW // 2 :][:length] = wave[:length]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:columns]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1)) ** 2
    bands = torchaudio.functional.melscale_fbanks(
        WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, MEL_BANDS, SAMPLE_RATE
    )
    level = 10 * np.log10((torch.from_numpy(power).float() @ bands).numpy() + 1e-10)
    share = ((level - level.max()) / RANGE_DB + 1).clip(0, 1)
    position = share.T[::-1] * (len(SCALE) - 1)
    colours = [
        np.interp(position, range(len(SCALE)), [colour[channel] for colour in SCALE])
        for channel in range(3)
    ]
    return png(np.stack(colours, axis=-1).astype(np.uint8))


def token_strip(tokens: np.ndarray) -> bytes:
    """(T,) codes → a PNG one pixel high with a pixel for each, a code always in one colour."""
    codes, places = np.unique(tokens, return_inverse=True)
    colours = np.array([code_colour(int(code)) for code in codes], np.uint8)
    return png(colours[places][None])


def code_colour(code: int) -> tuple[int, int, int]:
    """The colour of a code, 0 to 255 each: neighbours in number get hues far apart."""
    hue, light = (code * GOLDEN_RATIO) % 1.0, 0.48 + 0.2 * ((code * 7) % 5) / 4
    red, green, blue = colorsys.hls_to_rgb(hue, light, 0.62)
    return round(255 * red), round(255 * green), round(255 * blue)
