"""The vocoder: alignment with the frames, streams as one pass, losses; and decoding with it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import distilled

from tokenizer.audio.frames import num_frames
from tokenizer.codec.decoder import limited
from tokenizer.codec.vocoder import Vocoder
from tokenizer.codec.vocoder_heads import inverse_stft
from tokenizer.codec.vocoder_losses import SpectralLoss, VocoderTraining, discriminator_loss
from tokenizer.config import FocalConfig, VocoderConfig
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerError, TokenizerFiles
from tokenizer.tokenizer import Tokenizer

TOKENIZER = "wavlm-tiny-km256"


def small_vocoder(width=24, **changes) -> Vocoder:
    """A vocoder of random weights."""
    torch.manual_seed(0)
    return Vocoder(
        VocoderConfig(width=width, hidden=32, layers=3, feed_forward=48, **changes)
    ).eval()


def speaking(files: TokenizerFiles, **changes) -> TokenizerFiles:
    """A tokenizer with a vocoder of random weights."""
    vocoder = small_vocoder(files.width, **changes)
    return replace(files, vocoder=vocoder.config, vocoder_weights=vocoder.state_dict())


@pytest.fixture(scope="module")
def files() -> TokenizerFiles:
    """The shipped tokenizer of plain k-means."""
    return TokenizerFiles.read(PRETRAINED / TOKENIZER)


@pytest.mark.parametrize("n_fft", [640, 1024, 2048])
def test_windows_are_centred_on_the_samples_of_a_frame(n_fft):
    """The inverse STFT, with window i centred at sample 320 i + 200, restores the waveform."""
    frames, window = 20, torch.hann_window(n_fft)
    wave = torch.randn(2, 320 * frames + 80)
    around = torch.nn.functional.pad(wave, (n_fft // 2 - 200, n_fft // 2 - 200))
    spectra = torch.fft.rfft(around.unfold(1, n_fft, 320) * window)
    assert spectra.shape[1] == frames == num_frames(wave.shape[1])
    torch.testing.assert_close(inverse_stft(spectra, window), wave, atol=1e-4, rtol=1e-4)
    # A single frame gives sound within its window only.
    alone = torch.zeros_like(spectra)
    alone[:, 10] = spectra[:, 10]
    nonzero = inverse_stft(alone, window)[0].nonzero().flatten()
    middle = 320 * 10 + 200
    assert middle - n_fft // 2 < nonzero[0] < middle < nonzero[-1] < middle + n_fft // 2


@pytest.mark.parametrize("causal", [False, True])
def test_frames_become_samples_that_make_as_many_frames(causal):
    vocoder = small_vocoder(causal=causal)
    for frames in (1, 2, 37):
        wave = vocoder(torch.randn(2, frames, 24))
        assert wave.shape == (2, 320 * frames + 80) and num_frames(wave.shape[1]) == frames
        assert torch.isfinite(wave).all()


@pytest.mark.parametrize("n_fft", [1024, 2048])
def test_chunks_of_a_stream_are_those_of_one_pass(n_fft):
    vocoder, x = small_vocoder(causal=True, n_fft=n_fft), torch.randn(2, 40, 24)
    whole = vocoder(x)
    for chunk in (1, 4, 40):
        state, pieces = None, []
        for first in range(0, 40, chunk):
            wave, state = vocoder.stream(x[:, first : first + chunk], state, last=False)
            pieces.append(wave)
            so_far = sum(piece.shape[1] for piece in pieces)
            # All samples that no later window reaches.
            assert so_far == max(0, 320 * (first + chunk) + 200 - n_fft // 2)
        rest, state = vocoder.stream(x[:, :0], state, last=True)
        assert state is None
        torch.testing.assert_close(torch.cat([*pieces, rest], 1), whole, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="causal"):
        small_vocoder().stream(x, None, last=True)


def test_the_causal_form_depends_on_no_later_frame():
    vocoder, x = small_vocoder(causal=True), torch.randn(1, 40, 24)
    changed = x.clone()
    changed[:, 20:] += 1
    before, after = vocoder(x), vocoder(changed)
    reached = 320 * 20 + 200 - 512
    assert torch.equal(before[:, :reached], after[:, :reached])
    assert not torch.allclose(before[:, reached:], after[:, reached:])


def test_names_and_shapes_are_those_of_focalcodecs_published_weights():
    shapes = {
        name: tuple(v.shape) for name, v in Vocoder(VocoderConfig(width=1024)).state_dict().items()
    }
    block = {
        "dwconv.weight": (512, 1, 7),
        "norm.weight": (512,),
        "pwconv1.weight": (1536, 512),
        "pwconv2.bias": (512,),
        "gamma": (512,),
    }
    assert (
        shapes.items()
        >= {
            "backbone.embedding.weight": (512, 1024, 7),
            "backbone.input_norm.weight": (512,),
            **{f"backbone.layers.7.{name}": shape for name, shape in block.items()},
            "backbone.output_norm.bias": (512,),
            "head.proj.weight": (1026, 512),
        }.items()
    )
    assert len(shapes) == 2 + 2 + 8 * 9 + 2 + 2


def test_spectral_losses_grow_with_level_timing_and_silence_but_not_with_phase():
    loss, wave = SpectralLoss(), 0.07 * torch.randn(2, 16_000)
    nothing = sum(loss(wave, wave))
    assert nothing < 0.02
    for other in (2 * wave, wave.roll(4000, 1) * (torch.arange(16_000) < 8000), 0 * wave):
        assert sum(loss(other, wave)) > nothing + 0.5
    # A change of sign is inaudible and costs nothing.
    assert sum(loss(-wave, wave)) < 0.02


def test_vocoder_and_discriminators_get_gradients_of_their_own_loss_only():
    config = VocoderConfig(width=8, hidden=16, layers=1, feed_forward=16)
    training = VocoderTraining(config, torch.zeros(8), torch.ones(8), adversarial_weight=0.5)
    features, waves = torch.randn(1, 26, 8), 0.07 * torch.randn(1, 26 * 320 + 80)
    training(features, waves)[0].backward()
    together = {name: p.grad.clone() for name, p in training.named_parameters()}
    training.zero_grad()
    made = training.vocoder(features)[:, : 26 * 320]
    discriminator_loss(training.discriminators, made.detach(), waves[:, : 26 * 320]).backward()
    for name, p in training.discriminators.named_parameters():
        torch.testing.assert_close(together[f"discriminators.{name}"], p.grad)
        # The verdicts start near 0, where real and generated pull the bias equally.
        assert p.grad.abs().max() > 0 or name.endswith("verdict.bias")
    # Without the adversarial loss the vocoder's gradient is another one.
    training.zero_grad()
    training.discriminators = None
    training(features, waves)[0].backward()
    alone = training.vocoder.head.proj.weight.grad
    assert not torch.allclose(together["vocoder.head.proj.weight"], alone, rtol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_a_vocoder_trained_on_standardised_features_takes_plain_ones(causal):
    config = VocoderConfig(width=24, hidden=32, layers=3, feed_forward=48, causal=causal)
    mean, scale = 50 * torch.randn(24), 20 * torch.rand(24) + 1
    training = VocoderTraining(config, mean, scale)
    vocoder = Vocoder(config)
    vocoder.load_state_dict(training.weights())
    features = mean + scale * torch.randn(2, 30, 24)
    torch.testing.assert_close(vocoder(features), training.synthesize(features))
    # Away from the edges: the same as the inner vocoder on standardised features.
    plain = training.vocoder((features - mean) / scale)
    torch.testing.assert_close(
        vocoder(features)[:, 4800:4900], plain[:, 4800:4900], atol=1e-4, rtol=0
    )


def test_the_limiter_is_smooth_and_leaves_quiet_samples_unchanged():
    wave = torch.linspace(-30, 30, 60_001)
    made = limited(wave)
    quiet = wave.abs() <= 0.8
    assert torch.equal(made[quiet], wave[quiet]) and made.abs().max() <= 1
    assert (made.diff() > -1e-6).all() and made.diff().max() <= 0.0011


@pytest.mark.parametrize("causal", [False, True])
def test_decoding_in_windows_is_decoding_whole(files, causal):
    tokenizer = Tokenizer(speaking(files, causal=causal))
    tokens = np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint16)
    wave = tokenizer.decode(tokens)
    assert wave.shape == (320 * 4000 + 80,) and wave.dtype == np.float32
    (features,) = tokenizer.decode_features([tokens])
    np.testing.assert_array_equal(features, files.weights["codebook.codes"][tokens.astype(int)])
    with torch.inference_mode():
        whole = tokenizer.decoding.vocoder(torch.from_numpy(features)[None])[0]
    np.testing.assert_allclose(wave, limited(whole).numpy(), atol=1e-6)
    assert len(tokenizer.encode(wave)) == 4000


def test_decoding_spherical_and_distilled_codebooks(files):
    codes = torch.nn.functional.normalize(files.weights["codebook.codes"], dim=1)
    weights = {**files.weights, "codebook.codes": codes}
    tokens = np.arange(5)
    by_angle = Tokenizer(replace(files, metric="cosine", weights=weights))
    (features,) = by_angle.decode_features([tokens])
    np.testing.assert_allclose(np.square(features).mean(1), 1, rtol=1e-4)
    # Distilled, two frames a token: the decompressor's output, in the units of the features.
    config = FocalConfig(width=files.width, latent=8, hidden=(16, 16), factors=(2, 1))
    tokenizer = Tokenizer(speaking(distilled(files, config)))
    (features,) = tokenizer.decode_features([tokens])
    assert features.shape == (10, files.width) and 5 < features.mean() < 9
    assert tokenizer.decode(tokens).shape == (320 * 10 + 80,)
    assert tokenizer.decode(np.arange(2500) % 32).shape == (320 * 5000 + 80,)
    with pytest.raises(ValueError, match="not causal"):
        tokenizer.speech_stream()


@pytest.mark.parametrize("factors", [None, (1, 1), (2, 2)])
def test_speech_streams_as_it_decodes(files, factors):
    """Of plain k-means, and of causal decompressors of 50 and 12.5 tokens a second."""
    if factors:
        config = FocalConfig(
            width=files.width,
            latent=8,
            hidden=(16, 16),
            factors=factors,
            causal=True,
            past_frames=16,
        )
        files = distilled(files, config)
    tokenizer = Tokenizer(speaking(files, causal=True))
    tokens = np.random.default_rng(1).integers(0, files.codebook_size, 123)
    stream, pieces = tokenizer.speech_stream(), []
    for part in np.split(tokens, [1, 3, 10, 11, 50]):
        pieces.append(stream.push(part))
        pieces.append(stream.push(part[:0]))
    assert sum(map(len, pieces)) > 0.9 * 320 * 123
    pieces.append(stream.finish())
    np.testing.assert_allclose(np.concatenate(pieces), tokenizer.decode(tokens), atol=1e-5)
    with pytest.raises(ValueError, match="finished"):
        stream.push(tokens)
    assert len(tokenizer.speech_stream().finish()) == 0


@pytest.mark.parametrize("causal", [False, True])
def test_long_decoding_has_the_whole_past_of_a_causal_decompressor(files, causal):
    """Before a causal vocoder and before any other one."""
    config = FocalConfig(
        width=files.width, latent=8, hidden=(16, 16), factors=(1, 1), causal=True, past_frames=100
    )
    tokenizer = Tokenizer(speaking(distilled(files, config), causal=causal))
    tokens = np.random.default_rng(2).integers(0, 32, 3333)
    assert len(list(tokenizer.decoding.blocks(tokens))) > 1
    with torch.inference_mode():
        (features,) = tokenizer.decoding.features([tokens])
        whole = limited(tokenizer.vocoder(features[None])[0]).numpy()
    np.testing.assert_allclose(tokenizer.decode(tokens), whole, atol=1e-5)
    if causal:
        stream = tokenizer.speech_stream()
        streamed = np.concatenate([stream.push(tokens), stream.finish()])
        np.testing.assert_allclose(streamed, whole, atol=1e-5)


def test_what_cannot_be_decoded_is_refused(files):
    tokenizer = Tokenizer(speaking(files))
    for tokens, message in (
        (np.array([3, 256]), "256"),
        (np.array([-1, 3]), "-1"),
        (np.array([0.5]), "float"),
        (np.zeros((2, 2), int), "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer.decode(tokens)
    assert tokenizer.decode(np.empty(0, np.uint16)).shape == (0,)
    with pytest.raises(ValueError, match=r"jobs/train_vocoder\.py"):
        Tokenizer(files).decode(np.array([1]))


def test_a_vocoder_is_a_separate_file_and_changes_no_token(files, tmp_path):
    with_vocoder = speaking(files)
    with_vocoder.save(tmp_path)
    again = TokenizerFiles.read(tmp_path)
    assert again.fingerprint == files.fingerprint and again.vocoder == with_vocoder.vocoder
    tokens = np.arange(100)
    np.testing.assert_array_equal(
        Tokenizer(again).decode(tokens), Tokenizer(with_vocoder).decode(tokens)
    )

    with_vocoder.vocoder_weights["head.proj.bias"][0] += 1
    other = tmp_path / "other"
    with_vocoder.save(other)
    weights, config = (tmp_path / n for n in ("vocoder.safetensors", "config.json"))
    whole, values = weights.read_bytes(), json.loads(config.read_text())
    for damage in (lambda: weights.write_bytes(whole[:-100]), weights.unlink):
        damage()
        with pytest.raises(TokenizerError, match=r"no readable vocoder\.safetensors"):
            TokenizerFiles.read(tmp_path)
    weights.write_bytes((other / "vocoder.safetensors").read_bytes())
    with pytest.raises(TokenizerError, match="vocoder is not the one"):
        TokenizerFiles.read(tmp_path)
    wrong = ({"hidden": 64}, {"width": 9}, {"head": "linear"}, {"n_fft": 401}, {"nonsense": 1})
    for changes in wrong:
        values["vocoder"] |= changes
        config.write_text(json.dumps(values))
        with pytest.raises(TokenizerError, match="vocoder is not"):
            TokenizerFiles.read(tmp_path)
