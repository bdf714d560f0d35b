"""Makes the reference vectors of FocalCodec with the authors' code, in a checkout of it.

    git clone https://github.com/lucadellalib/focalcodec
    git -C focalcodec checkout v0.0.2  # then again with v0.0.1
    python tests/reference/make_focalcodec.py --focalcodec focalcodec

Writes focalcodec_*.json beside this file: a tiny configuration in each layout that the checkout
has, with the tokens, features and samples that its classes give for real speech. No test runs this.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from drawn import drawn, speech, write_reference

SAMPLES = 18_000
STRIDE = 37  # of the values that are kept
# Latents are further from zero than this, so that rounding changes no token.
MARGIN = 1e-4

ENCODER = {
    "hidden_dims": [12] * 7,
    "num_layers": 2,
    "dim": 24,
    "ffn_dim": 32,
    "num_heads": 2,
    "num_buckets": 32,
    "max_distance": 40,
    "conv_pos": 8,
    "conv_pos_groups": 2,
}
COMPRESSOR = {"input_dim": 24, "output_dim": 9, "hidden_dims": [16, 12], "focal_level": 2}
DECOMPRESSOR = {"input_dim": 9, "output_dim": 24, "hidden_dims": [12, 16], "focal_level": 2}
BACKBONE = {"num_layers": 2, "dim": 16, "ffn_dim": 20}


def config(encoder: dict, compressor: dict, decompressor: dict, decoder: tuple[str, dict]) -> dict:
    """A codec's configuration; each argument is what it has beside the sizes that all share."""
    name, values = decoder
    return {
        "encoder_name": "WavLM",
        "encoder_config": ENCODER | encoder,
        "compressor_name": "FocalEncoder",
        "compressor_config": COMPRESSOR | compressor,
        "quantizer_name": "BinarySphericalQuantizer",
        "quantizer_config": {"codebook_size": 512},
        "decompressor_name": "FocalDecoder",
        "decompressor_config": DECOMPRESSOR | decompressor,
        "decoder_name": name,
        "decoder_config": BACKBONE | values,
    }


def layouts(numbered: bool) -> dict[str, dict]:
    """The configurations that a checkout can run. numbered: of v0.0.1."""
    focal = {"focal_window": 5, "focal_factor": 2}
    if numbered:
        focal |= {"use_layerscale": True, "normalize_modulator": True}
        down, up = {"downscale_factors": [1, 1]}, {"upscale_factors": [1, 1]}
        vocos = ("Vocos", {"input_channels": 24, "n_fft": 640, "padding": 3})
        return {"focalcodec_numbered": config({}, focal | down, focal | up, vocos)}
    down, up = {"downscale_factors": [2, 1]}, {"upscale_factors": [1, 2]}
    vocos = ("Vocos", {"input_dim": 24, "n_fft": 640})
    causal = {"causal": True, "window_size": 16}
    focal_causal = {"focal_window": 6, "focal_factor": 4, "causal": True, "window_size": 20}
    one, refined = {"downscale_factors": [1, 1]}, {"upscale_factors": [1, 1]}
    refined |= {"last_window_size": 20}
    wavenext = ("WaveNeXt", {"input_dim": 24, "hop_length": 480, "causal": True})
    return {
        "focalcodec_25hz": config({}, focal | down, focal | up, vocos),
        "focalcodec_causal": config(causal, focal_causal | one, focal_causal | refined, wavenext),
    }


@torch.no_grad()
def reference(codec_class, values: dict) -> dict:
    """What their code gives for a configuration."""
    codec = codec_class(**values).eval()
    shapes = {name: list(value.shape) for name, value in codec.state_dict().items()}
    codec.load_state_dict(drawn(shapes))
    wave = torch.from_numpy(speech(SAMPLES))[None]
    latents = codec.sig_to_lats(wave)
    assert latents.abs().min() > MARGIN, latents.abs().min()
    tokens = codec.lats_to_toks(latents)
    features = codec.toks_to_qfeats(tokens)
    samples = codec.feats_to_sig(features)
    print(f"{tokens.unique().numel()} tokens of {tokens.numel()}, peak {samples.abs().max():.2f}")
    return {
        "config": values,
        "samples": SAMPLES,
        "tokens": tokens[0].tolist(),
        "stride": STRIDE,
        "features": [round(value, 6) for value in features[0].flatten()[::STRIDE].tolist()],
        "waveform_samples": samples.shape[1],
        "waveform": [round(value, 6) for value in samples[0][:: 8 * STRIDE].tolist()],
        "tensors": shapes,
    }


def main() -> None:
    """Write the references that the checkout can make."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--focalcodec", type=Path, required=True, help="folder of a checkout")
    folder = parser.parse_args().focalcodec
    sys.path.insert(0, str(folder))
    from focalcodec import FocalCodec

    numbered = not (folder / "focalcodec" / "wavenext.py").is_file()
    for name, values in layouts(numbered).items():
        write_reference(name, reference(FocalCodec, values))


if __name__ == "__main__":
    main()
