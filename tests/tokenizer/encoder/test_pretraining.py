"""The WavLM with gradients gives the features of `transformers` and of the inference encoder."""

import copy

import numpy as np
import pytest
import torch
from transformers import WavLMConfig, WavLMModel

from pipeline.training.crop_training import crop_optimizers
from pipeline.training.train_encoder import save_encoder
from tokenizer.audio.augmentation import change_speed, channel, mix, normalize, room
from tokenizer.audio.frames import num_frames
from tokenizer.encoder.pretraining import MaskedPrediction
from tokenizer.encoder.span_mask import span_mask
from tokenizer.encoder.wavlm import WavLM
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.folder import Folder
from tokenizer.training.settings import TrainingSettings


@pytest.fixture(scope="module")
def model() -> MaskedPrediction:
    """Four small layers with random biases and gates, which are zeros at the start of training."""
    config = WavLMConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=[16, 24, 32, 32, 32, 48, 48],
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    model = MaskedPrediction(config, labels=20, seed=0).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def test_features_are_those_of_transformers_and_of_the_encoder(model, tmp_path):
    torch.manual_seed(2)
    waves = torch.randn(2, 16_123)
    ours = model.features(waves).detach()
    theirs = model.encoder()(waves).last_hidden_state.detach()
    assert ours.shape == (2, num_frames(16_123), 64)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)

    save_encoder(model.encoder(), Folder(str(tmp_path / "encoder")), torch.float16)
    read = WavLMModel.from_pretrained(tmp_path / "encoder")
    assert read.dtype == torch.float32
    config, weights = read_encoder(tmp_path / "encoder", 3)
    assert config.normalize
    (frames,) = WavLM(config, weights)([waves[0]])
    hidden = read(waves[:1], output_hidden_states=True).hidden_states[3][0]
    torch.testing.assert_close(frames, hidden.detach(), atol=2e-5, rtol=1e-4)


def test_masked_frames_are_replaced_as_in_transformers(model):
    torch.manual_seed(3)
    waves, masked = torch.randn(3, 8_000), torch.zeros(3, 24, dtype=torch.bool)
    masked[0, 3:9] = masked[2, 20:] = True
    ours = model.features(waves, masked).detach()
    theirs = model.encoder().train()(waves, mask_time_indices=masked)
    model.wavlm.eval()
    # In training mode transformers applies dropout, so masking is repeated here in eval mode.
    hidden = model.wavlm.feature_projection(model.wavlm.feature_extractor(waves).mT)[0].clone()
    hidden[masked] = model.wavlm.masked_spec_embed
    expected = model.wavlm.encoder(hidden).last_hidden_state.detach()
    assert theirs.last_hidden_state.shape == ours.shape
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


def test_loss_falls_and_gradients_reach_every_weight(model):
    torch.manual_seed(4)
    waves, labels = torch.randn(4, 32_080), torch.randint(0, 20, (4, 100))
    masked = torch.from_numpy(span_mask((4, 100), 0.5, span=10, random=np.random.default_rng(0)))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        loss, found = model(waves, masked, labels, unmasked_weight=0.5)
        loss.backward()
        if not losses:
            unused = {
                name
                for name, p in model.named_parameters()
                if p.requires_grad and (p.grad is None or not p.grad.any())
            }
            assert unused == {"to_spectrum.weight", "to_spectrum.bias"}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert found["masked_accuracy"] > 0.3


def test_layers_that_are_kept_stay_as_they_are(model):
    """Frozen layers stay the same to the bit, all above learn, and Muon gets no frozen matrix."""
    kept = copy.deepcopy(model)
    kept.keep(2)
    before = copy.deepcopy(kept.encoder().state_dict())
    waves, labels = torch.randn(2, 32_080), torch.randint(0, 20, (2, 100))
    masked = torch.from_numpy(span_mask((2, 100), 0.5, span=10, random=np.random.default_rng(0)))
    settings = TrainingSettings(steps=2, learning_rate=2e-3, seed=0)
    optimizers = crop_optimizers(kept, kept.matrices(), settings)
    for _ in range(2):
        kept(waves, masked, labels)[0].backward()
        for optimizer in optimizers:
            optimizer.step()
    moved = {k for k, v in kept.encoder().state_dict().items() if not torch.equal(v, before[k])}
    upper = {name for name in before if name.startswith(("encoder.layers.2", "encoder.layers.3"))}
    assert moved == upper | {"encoder.layer_norm.weight", "encoder.layer_norm.bias"}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.65])
def test_spans_mask_the_share_that_was_asked_for(share):
    masked = span_mask((400, 250), share, span=10, random=np.random.default_rng(0))
    assert abs(masked.mean() - share) < 0.02
    # The ends of a row are masked as often as its middle.
    assert abs(masked[:, :5].mean() - share) < 0.06


def test_labels_follow_a_change_of_speed():
    """Labels count tenths of a second: at any speed, a frame has the label of its original time."""
    steps = np.arange(20)
    wave = np.sin(np.arange(16_000) / 5).astype(np.float32)
    labels = np.repeat(steps, 5)[: num_frames(len(wave))]
    for factor in (0.8, 1.0, 1.25):
        fast, moved = change_speed(wave, labels, factor)
        assert len(moved) == num_frames(len(fast))
        assert abs(len(fast) * factor - len(wave)) < 2
        middles = (np.arange(len(moved)) * 320 + 200) * factor
        assert np.abs(moved - (middles - 200) / 1600).max() < 1.2


def test_mixing_keeps_its_ratio_and_place():
    random = np.random.default_rng(0)
    wave = normalize(random.standard_normal(16_000).astype(np.float32))
    other = normalize(random.standard_normal(8_000).astype(np.float32))
    for ratio in (-5.0, 0.0, 20.0):
        added = mix(wave, other, ratio_db=ratio, longest=0.5, random=random) - wave
        length = np.count_nonzero(np.abs(added) > 0)
        assert 0 < length <= 8_000
        energy = np.square(added).sum() / length
        assert abs(-10 * np.log10(energy) - ratio) < 0.2


def test_a_room_leaves_speech_in_its_place():
    pulse = np.zeros(16_000, np.float32)
    pulse[5000] = 1.0
    result = room(pulse, 0.4, np.random.default_rng(0))
    assert np.abs(result[:5000]).max() < 1e-6 and np.abs(result).argmax() == 5000
    assert len(result) == len(pulse)


def test_a_channel_colours_the_sound_and_leaves_it_in_its_place():
    pulse = np.zeros(16_000, np.float32)
    pulse[5000] = 1.0
    spectra = []
    for seed in range(20):
        result = channel(pulse, np.random.default_rng(seed))
        assert len(result) == len(pulse) and np.abs(np.abs(result).argmax() - 5000) <= 1
        spectra.append(20 * np.log10(np.abs(np.fft.rfft(result)) + 1e-9))
    at_1_khz, at_7600_hz = np.array(spectra)[:, [1000, 7600]].T
    assert 3 < at_1_khz.std() < 8
    # Half of them are of a narrow band.
    assert 5 <= (at_7600_hz < -25).sum() <= 15
