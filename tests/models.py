"""Small random models for the tests: a Hugging Face WavLM, a tokenizer made from one, and a pickle
that leaves a file behind when it is loaded.
"""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.config import FocalConfig
from tokenizer.encoder.wavlm import WavLM
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.tokenizer_files import TokenizerFiles

LAYERS = 4

# Small models gain nothing from a second thread, and on a busy machine they wait for it.
torch.set_num_threads(1)


def small_wavlm(folder: Path, norm: str, seed: int = 0) -> WavLMModel:
    """Save a random WavLM to `folder` as the hub does, and return it in evaluation mode.

    norm: "layer" for wavlm-large's shape (pre-norm layers), "group" for wavlm-base's (post-norm).
    """
    model = small_encoder(folder, "wavlm", norm, seed=seed)
    assert isinstance(model, WavLMModel)
    return model


def small_encoder(
    folder: Path, kind: str, norm: str, *, seed: int = 0, **changes: object
) -> PreTrainedModel:
    """`small_wavlm` of any kind that has its names: "wavlm", "hubert" or "wav2vec2".

    changes: of its configuration.
    """
    large = norm == "layer"
    make_config, make_model = {
        "wavlm": (WavLMConfig, WavLMModel),
        "hubert": (HubertConfig, HubertModel),
        "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    }[kind]
    changes = {"conv_bias": large, **changes}
    if kind == "wavlm":
        # Few, so that one second of audio has distances in every kind of bucket.
        changes = {"num_buckets": 32, "max_bucket_distance": 60, **changes}
    config = make_config(
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=[32] * 7,
        feat_extract_norm=norm,
        do_stable_layer_norm=large,
        **changes,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = make_model(config).eval()
        for name, weight in model.named_parameters():
            if weight.ndim == 1 or "gru_rel_pos_const" in name:
                # Fresh norms are ones and zeros: a test would not notice if one was left out.
                weight.add_(torch.randn_like(weight) * 0.2)
            elif "rel_attn_embed" in name:
                weight.normal_()
            elif weight.ndim == 2:
                # Wider than the default 0.02, with which attention is almost uniform.
                weight.normal_(std=weight.shape[1] ** -0.5)
    model.save_pretrained(folder)
    return model


def small_tokenizer(
    folder: Path, norm: str = "layer", layer: int = 2, codes: int = 64, metric: str = "l2"
) -> TokenizerFiles:
    """A tokenizer with `small_wavlm` as its encoder, and features of noise as its codes.

    folder: where the encoder is saved.
    """
    small_wavlm(folder, norm)
    config, weights = read_encoder(folder, layer)
    noise = torch.randn(320 * codes + 80, generator=torch.Generator().manual_seed(1))
    (features,) = WavLM(config, weights)([noise])
    files = {f"encoder.{name}": weight for name, weight in weights.items()}
    # A copy: a tensor made in inference mode could not be changed by a test.
    files["codebook.codes"] = torch.from_numpy(features.numpy().copy())
    return TokenizerFiles(config, metric, weights=files, made_by={"by": "a test"})


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def distilled(files: TokenizerFiles, config: FocalConfig) -> TokenizerFiles:
    """The same encoder with a random compressor and decompressor; decoded features are about 7."""
    torch.manual_seed(0)
    weights = {k: v for k, v in files.weights.items() if k.startswith("encoder.")}
    weights |= {"codebook.codes": torch.randn(32, config.latent)}
    weights |= {"features.mean": torch.full((files.width,), 7.0), "features.scale": torch.ones(())}
    for name, module in (("compressor", Compressor), ("decompressor", Decompressor)):
        weights |= {f"{name}.{key}": v for key, v in module(config).state_dict().items()}
    return replace(files, weights=weights, compressor=config)
