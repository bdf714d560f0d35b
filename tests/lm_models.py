"""Small language models of random weights, and rows of utterances, for the tests."""

from dataclasses import replace

import numpy as np
import torch
from models import distilled, small_tokenizer

from lm.config import PAD, START, LMConfig
from lm.model import SpeechLM
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import FocalConfig, VocoderConfig
from tokenizer.storage.tokenizer_files import TokenizerFiles

CODES = 32
# Few buckets and a small window: rows of some hundred positions have every kind of distance.
SMALL = {
    "width": 64,
    "layers": 2,
    "heads": 4,
    "feed_forward": 128,
    "window": 40,
    "num_buckets": 32,
    "max_bucket_distance": 60,
}


def small_config(**changes) -> LMConfig:
    """Two layers of width 64."""
    return LMConfig(**{"codebook_size": CODES, **SMALL, **changes})


def shaken(model: SpeechLM) -> SpeechLM:
    """The model with noise added to every weight: zeros and ones would hide what is left out."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
        model.encoder.relative_embedding.weight.normal_()
    return model.eval()


def small_lm(**changes) -> SpeechLM:
    """A model with learned embeddings as inputs."""
    torch.manual_seed(0)
    return shaken(SpeechLM(small_config(inputs="embedding", **changes)))


def causal_files(folder, factors: tuple[int, ...] = (1, 1)) -> TokenizerFiles:
    """A tokenizer with a random causal decompressor."""
    shape = FocalConfig(
        width=64, latent=8, hidden=(32, 32), factors=factors, causal=True, past_frames=24
    )
    return distilled(small_tokenizer(folder), shape)


def row_of(
    utterances: list[np.ndarray], chunk: int, length: int, start: bool = True
) -> tuple[torch.Tensor, ...]:
    """Utterances side by side in one row → tokens and utterance, (1, T) each."""
    before = chunk if start else 0
    tokens = torch.full((1, length), PAD)
    utterance = torch.full((1, length), -1, dtype=torch.int32)
    place = 0
    for number, speech_tokens in enumerate(utterances):
        count = len(speech_tokens)
        whole = before + -(-count // chunk) * chunk
        tokens[0, place : place + before] = START
        tokens[0, place + before : place + before + count] = torch.from_numpy(speech_tokens)
        utterance[0, place : place + whole] = number
        place += whole
    assert place <= length
    return tokens, utterance


def speech(length: int, seed: int) -> np.ndarray:
    """Random tokens."""
    return np.random.default_rng(seed).integers(0, CODES, length)


def speaking(files: TokenizerFiles, causal: bool) -> TokenizerFiles:
    """The tokenizer with a small vocoder of random weights."""
    torch.manual_seed(2)
    config = VocoderConfig(width=files.width, hidden=16, layers=1, feed_forward=32, causal=causal)
    return replace(files, vocoder=config, vocoder_weights=dict(Vocoder(config).state_dict()))
