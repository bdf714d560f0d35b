"""The vocoder's file in a tokenizer's folder: apart from the weights that decide tokens."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig

WEIGHTS_FILE = "vocoder.safetensors"


def save_vocoder(folder: Path, config: VocoderConfig, weights: dict[str, Tensor]) -> dict:
    """Write vocoder.safetensors; returns its entry for the config.json."""
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS_FILE)
    return {**config.to_dict(), "sha256": digest_of(weights)}


def read_vocoder(folder: Path, about: dict, width: int) -> tuple[VocoderConfig, dict[str, Tensor]]:
    """Read what save_vocoder wrote. width: of the tokenizer's features.

    Raises ValueError or TypeError when config.json says something else, OSError or SafetensorError
    when the file cannot be read.
    """
    config = VocoderConfig.from_dict({k: v for k, v in about.items() if k != "sha256"})
    if config.width != width:
        raise ValueError(f"one of features of {width} dimensions, but of {config.width}")
    weights = load_file(folder / WEIGHTS_FILE)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Vocoder(config).state_dict().items()}
    if {name: value.shape for name, value in weights.items()} != shapes:
        raise ValueError("of the shape that its config.json says")
    if about.get("sha256") != digest_of(weights):
        raise ValueError("the one that its config.json was written for")
    return config, weights


def digest_of(weights: dict[str, Tensor], text: str = "") -> str:
    """SHA-256 over a text, and over names, types, shapes and values of weights on the CPU."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
