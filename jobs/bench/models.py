"""What benchmarks measure: the shapes of wavlm-tiny and wavlm-large, with random weights."""

from dataclasses import replace

import torch

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.config import FocalConfig
from tokenizer.storage.tokenizer_files import TokenizerFiles

LATENT = 32
NORMS = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
# name: (the layer of its tokenizers, its shape where it is not wavlm-base's)
SHAPES = {
    "wavlm-tiny": (
        4,
        {
            "hidden_size": 256,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
            "conv_dim": [64, 128, 128, 128, 256, 256, 256],
            **NORMS,
        },
    ),
    "wavlm-large": (
        6,
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            **NORMS,
        },
    ),
}


def distilled(files: TokenizerFiles, codes: int, causal: bool = False) -> TokenizerFiles:
    """A tokenizer's encoder with a compressor and decompressor of --method distill's own widths."""
    width = files.encoder.hidden_size
    hidden = tuple(width >> halvings for halvings in range(3))
    shape = FocalConfig(width=width, latent=LATENT, hidden=hidden, factors=(1,) * 3, causal=causal)
    weights = {k: v for k, v in files.weights.items() if k.startswith("encoder.")}
    weights |= {"features.mean": torch.zeros(width), "features.scale": torch.ones(())}
    weights["codebook.codes"] = torch.randn(codes, LATENT)
    for part, module in (("compressor", Compressor(shape)), ("decompressor", Decompressor(shape))):
        weights |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    return replace(files, weights=weights, compressor=shape)
