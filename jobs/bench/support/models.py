"""Models with random weights that benchmarks measure, in the shapes of wavlm-tiny and -large."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import WavLMConfig, WavLMModel

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import EncoderConfig, FocalConfig, VocoderConfig
from tokenizer.storage.encoder_files import read_encoder, weight_names
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

CODES, LATENT = 1024, 32
NORMS = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
# name: (the layer of its tokenizers, where its shape differs from wavlm-base's)
SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
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


def random_encoder(folder: Path, codes: int) -> tuple[WavLMModel, TokenizerFiles]:
    """A wavlm-large, and a tokenizer of its lower layers with `codes` codes.

    Written as folder/encoder and folder/tokenizer.
    """
    layer, shape = SHAPES["wavlm-large"]
    torch.manual_seed(0)
    model = WavLMModel(WavLMConfig(**shape)).eval()
    model.save_pretrained(folder / "encoder")
    config, encoder = read_encoder(folder / "encoder", layer)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    weights["codebook.codes"] = torch.randn(codes, shape["hidden_size"])
    files = TokenizerFiles(config, "l2", weights)
    files.save(folder / "tokenizer")
    return model, files


def distilled(files: TokenizerFiles, codes: int, causal: bool = False) -> TokenizerFiles:
    """The tokenizer with a compressor and decompressor, in the default widths of distillation."""
    width = files.encoder.hidden_size
    hidden = tuple(width >> halvings for halvings in range(3))
    shape = FocalConfig(width=width, latent=LATENT, hidden=hidden, factors=(1,) * 3, causal=causal)
    weights = {k: v for k, v in files.weights.items() if k.startswith("encoder.")}
    weights |= {"features.mean": torch.zeros(width), "features.scale": torch.ones(())}
    weights["codebook.codes"] = torch.randn(codes, LATENT)
    for part, module in (("compressor", Compressor(shape)), ("decompressor", Decompressor(shape))):
        weights |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    return replace(files, weights=weights, compressor=shape)


def random_tokenizer(name: str, precision: str, causal: bool = False) -> Tokenizer:
    """A tokenizer in one of SHAPES: k-means codes, or causal and with a compressor."""
    return Tokenizer(random_files(name, causal), "cpu", precision)


def random_files(name: str, causal: bool = False) -> TokenizerFiles:
    """The files of random_tokenizer."""
    layer, shape = SHAPES[name]
    config = EncoderConfig(layer=layer, causal=causal, **shape)
    torch.manual_seed(0)
    model = WavLMModel(WavLMConfig(**{**shape, "num_hidden_layers": layer}))
    torch.nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    state = model.state_dict()
    weights = {f"encoder.{name}": state[name] for name in weight_names(config)}
    weights["codebook.codes"] = torch.randn(CODES, shape["hidden_size"])
    files = TokenizerFiles(config, "l2", weights)
    return distilled(files, CODES, causal=True) if causal else files


def with_vocoder(files: TokenizerFiles) -> TokenizerFiles:
    """The tokenizer with a causal vocoder of the default shape."""
    torch.manual_seed(0)
    config = VocoderConfig(width=files.width, causal=True)
    return replace(files, vocoder=config, vocoder_weights=dict(Vocoder(config).state_dict()))
