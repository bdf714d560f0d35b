"""Compressor and decompressor: shapes, padding, causality, streams, and FocalCodec's names."""

import pytest
import torch

from tokenizer.codec.compressor import Compressor, Decompressor
from tokenizer.config import FocalConfig

FRAMES = 40
RATES = {"50 Hz": (1, 1), "25 Hz": (2, 1), "12.5 Hz": (2, 2)}


def modules(factors=(1, 1), causal=False):
    """A small compressor and its decompressor."""
    torch.manual_seed(1)
    config = FocalConfig(
        width=24, latent=5, hidden=(16, 12), factors=factors, causal=causal, past_frames=20
    )
    return Compressor(config).eval(), Decompressor(config).eval()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("causal", [False, True])
def test_frames_become_tokens_and_frames_again(rate, causal):
    compressor, decompressor = modules(RATES[rate], causal)
    a_token = compressor.config.frames_per_token
    for frames in (1, 37, FRAMES):
        latents, _ = compressor(torch.randn(2, frames, 24))
        assert latents.shape == (2, -(-frames // a_token), 5)
        features, _ = decompressor(latents)
        assert features.shape == (2, latents.shape[1] * a_token, 24)


@pytest.mark.parametrize("rate", RATES)
def test_padding_changes_nothing(rate):
    compressor, decompressor = modules(RATES[rate])
    x, short = torch.randn(2, FRAMES, 24), 26
    alone, _ = compressor(x[1:, :short])
    padded, _ = compressor(x, [FRAMES, short])
    tokens = alone.shape[1]
    torch.testing.assert_close(padded[1:, :tokens], alone, atol=1e-5, rtol=1e-5)
    back, _ = decompressor(padded, [padded.shape[1], tokens])
    expected, _ = decompressor(alone)
    torch.testing.assert_close(back[1:, : expected.shape[1]], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rate", RATES)
def test_chunks_of_a_stream_are_those_of_one_pass(rate):
    compressor, decompressor = modules(RATES[rate], causal=True)
    x, state, back_state = torch.randn(2, FRAMES, 24), None, None
    latents, features = [], []
    for first in range(0, FRAMES, 4):
        chunk, state = compressor(x[:, first : first + 4], state=state)
        back, back_state = decompressor(chunk, state=back_state)
        latents.append(chunk)
        features.append(back)
    whole, _ = compressor(x)
    torch.testing.assert_close(torch.cat(latents, 1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(features, 1), decompressor(whole)[0], atol=1e-5, rtol=1e-5)


def test_the_causal_form_sees_nothing_later_than_its_chunk():
    compressor, decompressor = modules(causal=True)
    x = torch.randn(1, FRAMES, 24)
    changed = x.clone()
    changed[:, 20:] += 1
    before, after = (decompressor(compressor(wave)[0])[0] for wave in (x, changed))
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("causal", [False, True])
def test_names_and_shapes_are_those_of_focalcodecs_published_weights(causal):
    """As in its repository, so that its files load with load_state_dict."""
    compressor, decompressor = modules((2, 1), causal)
    block = {
        "modulation.in_proj.weight": (2 * 16 + 3, 16),
        "modulation.layers.0.0.weight": (16, 1, 7),
        "modulation.layers.1.0.weight": (16, 1, 9),
        "modulation.context_proj.weight": (16, 16, 1),
        "modulation.out_proj.weight": (16, 16),
        "feed_forward.in_proj.weight": (64, 16),
        "feed_forward.out_proj.weight": (16, 64),
    }
    if causal:
        block |= {"modulation_norm.alpha": (1,), "modulation.layers.2.0.weight": (16, 1, 20)}
    else:
        block |= {"modulation_norm.weight": (16,), "feed_forward_norm.bias": (16,)}
    down = {f"layers.0.focal_block.{name}": shape for name, shape in block.items()}
    down |= {
        "layers.0.downscale.downscale.weight": (16, 24, 2),
        "layers.0.downscale.activation.alpha": (16, 1),
        "out_proj.weight": (5, 12),
    }
    up = {"in_proj.weight": (12, 5), "layers.1.upscale.upscale.weight": (16, 24, 2)}
    up |= {f"layers.1.focal_block.{name}": shape for name, shape in block.items()}
    if causal:
        up["refiner.in_proj.weight"] = (4 * 24, 4 * 24)
    for module, expected in ((compressor, down), (decompressor, up)):
        shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        assert expected.items() <= shapes.items()
