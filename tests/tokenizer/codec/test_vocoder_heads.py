"""Vocos and WaveNeXt, with and without margin: lengths, one pass, blocks and streams agree."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from models import distilled

from pipeline.tokenize.decoder_actor import as_int16
from pipeline.tokenize.detokenize_shard import write_flac
from tokenizer.codec.compression import for_inference
from tokenizer.codec.decoder import Decoding, limited
from tokenizer.codec.vocoder import Vocoder
from tokenizer.codec.vocoder_losses import VocoderTraining
from tokenizer.config import FocalConfig, VocoderConfig
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

WAVENEXT = {"head": "linear", "samples_per_frame": 480, "margin": 0, "limiter": False}
SHAPES = {
    "vocos": {},
    "vocos without margin": {"margin": 0, "limiter": False},
    "wavenext": WAVENEXT,
    "wavenext of kernel 1": {**WAVENEXT, "kernel": 1},
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
each_form = pytest.mark.parametrize("causal", [False, True], ids=["centred", "causal"])


def a_vocoder(width: int = 24, **shape) -> Vocoder:
    """A vocoder in which every parameter matters."""
    torch.manual_seed(0)
    config = VocoderConfig(width=width, hidden=32, layers=3, feed_forward=48, **shape)
    vocoder = Vocoder(config).eval().requires_grad_(False)
    for parameter in vocoder.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return vocoder


def packed(vocoder: Vocoder) -> Vocoder:
    """As a tokenizer runs it on a CPU."""
    weights, cpu = vocoder.state_dict(), torch.device("cpu")
    return for_inference(Vocoder(vocoder.config), weights, device=cpu)


def samples(config: VocoderConfig, frames: int) -> int:
    return config.samples_per_frame * frames + 2 * config.margin


@pytest.fixture(scope="module")
def files() -> TokenizerFiles:
    """The shipped tokenizer of plain k-means."""
    return TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256")


def speaking(files: TokenizerFiles, **shape) -> TokenizerFiles:
    """The tokenizer with a vocoder of random weights."""
    vocoder = a_vocoder(files.width, **shape)
    return replace(files, vocoder=vocoder.config, vocoder_weights=vocoder.state_dict())


@each_shape
@each_form
def test_the_form_for_inference_gives_the_same_samples(shape, causal):
    vocoder = a_vocoder(causal=causal, **shape)
    for frames in (1, 2, 5, 40):
        x = torch.randn(2, frames, 24)
        made = packed(vocoder)(x)
        assert made.shape == (2, samples(vocoder.config, frames))
        torch.testing.assert_close(made, vocoder(x), atol=1e-5, rtol=1e-4)


@each_shape
@pytest.mark.parametrize("form", [lambda vocoder: vocoder, packed], ids=["plain", "packed"])
def test_a_stream_is_one_pass(shape, form):
    vocoder, x = form(a_vocoder(causal=True, **shape)), torch.randn(2, 41, 24)
    whole = vocoder(x)
    for chunk in (1, 4, 41):
        state, pieces = None, []
        for first in range(0, 41, chunk):
            wave, state = vocoder.stream(x[:, first : first + chunk], state, last=False)
            pieces.append(wave)
        rest, state = vocoder.stream(x[:, :0], state, last=True)
        assert state is None
        torch.testing.assert_close(torch.cat([*pieces, rest], 1), whole, atol=1e-5, rtol=1e-5)
        if vocoder.config.head == "linear":
            assert rest.shape[1] == 0 and pieces[0].shape[1] == 480 * chunk


@each_shape
@each_form
def test_padding_in_a_batch_changes_no_utterance(shape, causal):
    vocoder = a_vocoder(causal=causal, **shape)
    features = [torch.randn(frames, 24) for frames in (1, 40, 7, 23)]
    with torch.inference_mode():
        for wave, rows in zip(vocoder.batch(features), features, strict=True):
            torch.testing.assert_close(wave, vocoder(rows[None])[0], atol=2e-6, rtol=2e-5)


def test_without_margin_the_first_and_last_40_samples_are_dropped():
    with_margin, x = a_vocoder(), torch.randn(1, 9, 24)
    without = Vocoder(replace(with_margin.config, margin=0))
    without.load_state_dict(with_margin.state_dict())
    torch.testing.assert_close(without(x), with_margin(x)[:, 40:-40])


def test_a_causal_wavenext_is_padded_with_zeros_before_its_first_frame():
    """Each layer written out, as the papers have it."""
    vocoder, x = a_vocoder(causal=True, **WAVENEXT), torch.randn(1, 12, 24)
    w = vocoder.state_dict()

    def convolved(x, name, groups):
        padded = F.pad(x.mT, (6, 0))
        return F.conv1d(padded, w[f"{name}.weight"], w[f"{name}.bias"], groups=groups).mT

    def normed(x, name):
        return F.layer_norm(x, (32,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ w[f"{name}.weight"].mT + w[f"{name}.bias"]

    y = normed(convolved(x, "backbone.embedding", 1), "backbone.input_norm")
    for layer in (f"backbone.layers.{number}" for number in range(3)):
        inner = normed(convolved(y, f"{layer}.dwconv", 32), f"{layer}.norm")
        inner = linear(F.gelu(linear(inner, f"{layer}.pwconv1")), f"{layer}.pwconv2")
        y = y + w[f"{layer}.gamma"] * inner
    wave = linear(normed(y, "backbone.output_norm"), "head.proj").flatten(1)
    assert wave.abs().max() > 1
    torch.testing.assert_close(vocoder(x), wave.clamp(-1, 1), atol=1e-5, rtol=1e-5)


@each_shape
@each_form
def test_long_tokens_decode_in_blocks_as_in_one_pass(files, shape, causal):
    tokenizer = Tokenizer(speaking(files, causal=causal, **shape))
    tokens = np.random.default_rng(0).integers(0, 256, 3100)
    decoding, config = tokenizer.decoding, tokenizer.vocoder.config
    assert len(list(decoding.blocks(tokens))) > 1
    wave = tokenizer.decode(tokens)
    assert wave.shape == (samples(config, 3100),)
    with torch.inference_mode():
        whole = tokenizer.vocoder(decoding.features([tokens])[0][None])[0]
    expected = limited(whole) if config.limiter else whole.clamp(-1, 1)
    np.testing.assert_allclose(wave, expected.numpy(), atol=1e-5)
    if config.head == "linear":
        # Clipped, not limited.
        assert (wave == 1).any() and (wave == -1).any()


def test_speech_at_24_khz(files, tmp_path):
    """Decoded, streamed and as a file, of a causal decompressor of 25 tokens a second."""
    config = FocalConfig(
        width=files.width, latent=8, hidden=(16, 16), factors=(2, 1), causal=True, past_frames=16
    )
    files = speaking(distilled(files, config), causal=True, **WAVENEXT)
    files.save(tmp_path / "saved")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "saved")
    assert (tokenizer.sample_rate, tokenizer.output_sample_rate) == (16_000, 24_000)
    tokens = np.random.default_rng(1).integers(0, 32, 905)
    wave = tokenizer.decode(tokens)
    assert wave.shape == (480 * 2 * 905,)
    stream = tokenizer.speech_stream()
    assert stream.sample_rate == 24_000
    pieces = [stream.push(part) for part in np.split(tokens, [1, 2, 7, 8])]
    # Whole chunks of 4 frames, which are 2 tokens, at once.
    assert [len(piece) for piece in pieces[:4]] == [0, 1920, 3840, 1920]
    pieces.append(stream.finish())
    np.testing.assert_allclose(np.concatenate(pieces), wave, atol=1e-5)

    write_flac(tmp_path / "speech.flac", 24_000, map(as_int16, Decoding(files).blocks(tokens)))
    read, rate = soundfile.read(tmp_path / "speech.flac", dtype="float32")
    assert rate == 24_000
    np.testing.assert_allclose(read, wave, atol=1.6 / 32768)


def test_without_a_vocoder_speech_would_have_16_khz(files):
    tokenizer = Tokenizer(files)
    assert tokenizer.vocoder is None and tokenizer.output_sample_rate == 16_000


@each_form
def test_a_wavenext_is_trained_at_its_own_rate(causal):
    config = VocoderConfig(width=8, hidden=16, layers=1, feed_forward=16, causal=causal, **WAVENEXT)
    training = VocoderTraining(config, torch.zeros(8), torch.ones(8), adversarial_weight=0.5)
    # Windows of 16 to 128 ms, as at 16 kHz.
    assert training.spectra.sizes == [384, 768, 1536, 3072]
    loss, parts = training(torch.randn(2, 26, 8), 0.07 * torch.randn(2, 26 * 480 + 120))
    loss.backward()
    assert torch.isfinite(loss) and "discriminator_loss" in parts
    assert all(p.grad is not None for p in training.parameters())
