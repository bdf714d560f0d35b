"""A tokenizer → FocalCodec's layout, so that the authors' code runs what is trained here.

The layout is v0.0.2's: config.json with all keys written out, and the tensors under its names. Mean
and scale of the features and a causal encoder's gain are folded into neighbouring weights. What
that code cannot hold is refused.
"""

from typing import Any

import torch
from torch import Tensor

from tokenizer.codec.codebook import is_binary
from tokenizer.config import EncoderConfig, FocalConfig, MFCCConfig, VocoderConfig
from tokenizer.errors import UsageError
from tokenizer.published.folding import fold_gain, fold_standardisation
from tokenizer.published.names import OURS_VOCODER, tensors
from tokenizer.published.their_config import DEFAULTS, PARTS
from tokenizer.storage.tokenizer_files import TokenizerFiles

# Their layer norms have PyTorch's default.
LAYER_NORM_EPS = 1e-5


def export_focalcodec(files: TokenizerFiles) -> tuple[dict, dict[str, Tensor]]:
    """The configuration and the weights, in fp32, with which FocalCodec gives the same tokens.

    files: a distilled tokenizer with a vocoder. Raises UsageError, which lists everything that
    FocalCodec cannot hold: see `unsupported`.
    """
    encoder, codec, vocoder = files.encoder, files.compressor, files.vocoder
    reasons = unsupported(files)
    if reasons or isinstance(encoder, MFCCConfig) or codec is None or vocoder is None:
        raise UsageError(
            f"FocalCodec cannot hold it: {'; '.join(reasons)}",
            "export a distilled tokenizer with binary spherical codes, raw input and a vocoder",
        )
    ours = {name: weight.float() for name, weight in files.weights.items()}
    ours |= {OURS_VOCODER + name: weight for name, weight in files.vocoder_weights.items()}
    if encoder.causal:
        fold_gain(ours, encoder.gain)
    fold_standardisation(ours, codec, last_layer=encoder.layer - 1)
    weights = {
        tensor.name: torch.cat([ours[name].float() for name in tensor.ours])
        for tensor in tensors(encoder, (codec, codec), vocoder)
    }
    return _config(encoder, codec, vocoder), weights


def left_out(files: TokenizerFiles) -> list[str]:
    """What the exported codec does differently, a sentence each: it changes no token."""
    codec, vocoder, notes = files.compressor, files.vocoder, []
    if vocoder and vocoder.margin:
        notes.append(
            f"its speech lacks the first and the last {vocoder.margin} samples of the vocoder's"
        )
    if vocoder and vocoder.limiter:
        notes.append("its speech is not limited: samples above 0.8 are not compressed")
    if codec and codec.factors[0] > 1 and files.weights["features.mean"].any():
        notes.append("its encoder's features are without the mean, which its decompressor adds")
    return notes


def unsupported(files: TokenizerFiles) -> list[str]:
    """What FocalCodec cannot hold of a tokenizer, by the name in its config.json or weights."""
    reasons = _encoder_reasons(files.encoder)
    codec, codes = files.compressor, files.weights.get("codebook.codes")
    if codec is None:
        reasons.append("compressor: there is none, as in a k-means tokenizer")
    elif codes is None or not is_binary(codes.float()):
        reasons.append("codebook.codes: they are learned, not binary spherical")
    reasons += [f"{name}" for name in ("center", "codebook.projection") if name in files.weights]
    if codec is not None:
        reasons += _codec_reasons(codec, files.encoder)
    vocoder = files.vocoder
    if vocoder is None:
        reasons.append("vocoder: there is none; train one with jobs/train_vocoder.py first")
    elif vocoder.head == "istft" and vocoder.causal:
        reasons.append("vocoder.causal: a causal vocoder must have a linear head")
    return reasons


def _encoder_reasons(encoder: EncoderConfig | MFCCConfig) -> list[str]:
    if isinstance(encoder, MFCCConfig):
        return ["encoder.model_type: it is MFCCs, not a WavLM"]
    wrong = {
        "normalize: its input is normalised": encoder.normalize,
        "layer: it has no transformer layer": not encoder.layer,
        "conv_bias: its convolutions have biases": encoder.conv_bias,
        "feat_extract_norm: it is not 'layer'": encoder.feat_extract_norm != "layer",
        "feat_proj_layer_norm: it has none": not encoder.feat_proj_layer_norm,
        "do_stable_layer_norm: its layers are post-norm": not encoder.do_stable_layer_norm,
        "layer_norm_eps: it is not 1e-05": encoder.layer_norm_eps != LAYER_NORM_EPS,
        "position_bias: it has none": not encoder.position_bias,
        "replicate_padding: it is causal without": encoder.causal and not encoder.replicate_padding,
    }
    return [f"encoder.{why}" for why, found in wrong.items() if found]


def _codec_reasons(codec: FocalConfig, encoder: EncoderConfig | MFCCConfig) -> list[str]:
    wrong = {
        "factors: over 2 in one layer, or over 4 in all": max(codec.factors) > 2
        or codec.frames_per_token > 4,
        "factors: over 1 in a causal codec": codec.causal and codec.frames_per_token > 1,
    }
    if isinstance(encoder, EncoderConfig):
        wrong["causal: it is not the encoder's"] = codec.causal != encoder.causal
        wrong["chunk_frames: it is not the encoder's, or 1"] = (
            codec.causal and codec.chunk_frames != max(2, encoder.chunk_frames)
        )
    return [f"compressor.{why}" for why, found in wrong.items() if found]


def _config(encoder: EncoderConfig, codec: FocalConfig, vocoder: VocoderConfig) -> dict:
    window = encoder.past_frames + encoder.chunk_frames if encoder.causal else 512
    wavlm = {
        "hidden_dims": list(encoder.conv_dim),
        "kernel_sizes": list(encoder.conv_kernel),
        "strides": list(encoder.conv_stride),
        "num_layers": encoder.layer,
        "dim": encoder.hidden_size,
        "ffn_dim": encoder.intermediate_size,
        "num_heads": encoder.num_attention_heads,
        "num_buckets": encoder.num_buckets,
        "max_distance": encoder.max_bucket_distance,
        "max_cached_steps": max(2048, window),
        "conv_pos": encoder.num_conv_pos_embeddings,
        "conv_pos_groups": encoder.num_conv_pos_embedding_groups,
        "causal": encoder.causal,
        "window_size": window,
        "lookahead_size": encoder.chunk_frames - 1,
    }
    focal = {
        "focal_window": codec.focal_window,
        "focal_level": codec.focal_levels,
        "focal_factor": codec.focal_factor,
        "causal": codec.causal,
        "window_size": codec.past_frames,
    }
    compressor = {
        "input_dim": codec.width,
        "output_dim": codec.latent,
        "hidden_dims": list(codec.hidden),
        "downscale_factors": list(codec.factors),
        **focal,
    }
    decompressor = {
        "input_dim": codec.latent,
        "output_dim": codec.width,
        "hidden_dims": list(codec.hidden[::-1]),
        "upscale_factors": list(codec.factors[::-1]),
        **focal,
        "last_window_size": codec.past_frames,
        "lookahead_size": codec.chunk_frames - 1,
    }
    linear = vocoder.head == "linear"
    decoder = {
        "input_dim": vocoder.width,
        "num_layers": vocoder.layers,
        "dim": vocoder.hidden,
        "ffn_dim": vocoder.feed_forward,
        "kernel_size": vocoder.kernel,
        "hop_length": vocoder.samples_per_frame,
        "causal": vocoder.causal,
        **({} if linear else {"n_fft": vocoder.n_fft}),
    }
    parts: dict[str, tuple[str, dict[str, Any]]] = {
        "encoder": ("WavLM", wavlm),
        "compressor": ("FocalEncoder", compressor),
        "quantizer": ("BinarySphericalQuantizer", {"codebook_size": 1 << codec.latent}),
        "decompressor": ("FocalDecoder", decompressor),
        "decoder": ("WaveNeXt" if linear else "Vocos", decoder),
    }
    config: dict[str, Any] = {}
    for part in PARTS:
        name, values = parts[part]
        config |= {f"{part}_name": name, f"{part}_config": {**DEFAULTS[name], **values}}
    return config
