"""A small causal encoder with random weights, tokenizers made from it, and their streams."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from models import small_wavlm
from transformers import WavLMModel

from tokenizer.codec.compression import Compression
from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.config import FocalConfig
from tokenizer.encoder.causal_student import CausalStudent
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

PAST = 24
# More than a block of 64 chunks and many times PAST; ends within a chunk and within a frame.
FRAMES, SAMPLES = 459, 459 * 320 + 80 + 133


def noise(samples: int = SAMPLES, seed: int = 3) -> np.ndarray:
    """Noise at the level of speech."""
    return (np.random.default_rng(seed).standard_normal(samples) * 0.05).astype(np.float32)


def small_student(folder: Path) -> CausalStudent:
    """A random causal WavLM with a short window, with gradients. folder: for its teacher."""
    small_wavlm(folder, "layer")
    config, _ = read_encoder(folder, 3)
    config = replace(config, causal=True, normalize=False, past_frames=PAST)
    student = CausalStudent(WavLMModel.from_pretrained(folder), config, torch.zeros(64))
    with torch.no_grad():  # with taps at zero, a test would not notice what they read
        conv = student.wavlm.encoder.pos_conv_embed.conv
        conv.weight.add_(torch.randn(conv.weight.shape, generator=torch.manual_seed(4)) * 0.05)
    return student


def tokenizer_of(
    student: CausalStudent, factors: tuple[int, ...], *, replicate_padding: bool = False
) -> Tokenizer:
    """The tokenizer of `files_of`."""
    return Tokenizer(files_of(student, factors, replicate_padding=replicate_padding))


def files_of(
    student: CausalStudent, factors: tuple[int, ...], *, replicate_padding: bool = False
) -> TokenizerFiles:
    """A tokenizer of 64 random codes. factors: of its compressor, () for none."""
    torch.manual_seed(5)
    weights, shape = student.weights(), None
    config = replace(student.config, replicate_padding=replicate_padding)
    files = {f"encoder.{name}": weight for name, weight in weights.items()}
    (features,) = CausalWavLM(config, weights)([torch.from_numpy(noise(seed=6))])
    if factors:
        shape = FocalConfig(
            width=64,
            latent=8,
            hidden=(32,) * len(factors),
            factors=factors,
            causal=True,
            past_frames=PAST,
        )
        for name, part in (
            ("compressor", Compressor(shape)),
            ("decompressor", Decompressor(shape)),
        ):
            files |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
        files |= {"features.mean": features.mean(0), "features.scale": features.std()}
        (features,) = Compression(shape, files).latents([features])
    files["codebook.codes"] = features[torch.randperm(len(features))[:64]].clone()
    return TokenizerFiles(config, "l2", weights=files, made_by={}, compressor=shape)


def streamed(tokenizer: Tokenizer, wave: np.ndarray, most: int, seed: int = 0) -> list[np.ndarray]:
    """The tokens of each push of up to `most` samples, then those of finish()."""
    random, stream, tokens = np.random.default_rng(seed), tokenizer.stream(), []
    while len(wave):
        count = int(random.integers(0, most + 1))
        tokens.append(stream.push(wave[:count]))
        wave = wave[count:]
    return [*tokens, stream.finish()]
