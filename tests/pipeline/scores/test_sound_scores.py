"""Scores of sound: those of their libraries, by hand; and what cannot be scored."""

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor, WavLMForXVector

from pipeline.scores import intelligibility, naturalness, pitch
from pipeline.scores.speakers import XVectors, similarity, speaker_model
from pipeline.scores.unscored import Unscored, needed
from tokenizer.errors import UsageError

pytest_plugins = ("small_models",)
SILENCE = np.zeros(16_000, np.float32)


def test_dnsmos_is_that_of_speechmos(waves):
    from speechmos import dnsmos

    for wave in waves[:2]:
        theirs = dnsmos.run(wave, 16_000)
        ours = naturalness.dnsmos(wave)
        assert ours == pytest.approx(
            {name: float(theirs[f"{name}_mos"]) for name in ("p808", "sig", "bak", "ovrl")},
            abs=1e-4,
        )
    assert naturalness.dnsmos_name() == "DNSMOS, speechmos 0.0.1.1"
    with pytest.raises(Unscored, match="no samples"):
        naturalness.dnsmos(SILENCE[:0])


def test_similarity_is_that_of_resemblyzer(waves):
    resemblyzer = pytest.importorskip("resemblyzer", reason="it is compiled")
    voices = speaker_model(None)
    found = voices.embeddings([*waves, SILENCE])
    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)
    theirs = [encoder.embed_utterance(resemblyzer.preprocess_wav(wave)) for wave in waves]
    for one in range(10):
        for other in range(10):
            expected = float(theirs[one] @ theirs[other])
            assert similarity(found[one], found[other]) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(Unscored, match="no voice"):
        similarity(found[0], found[10])


@torch.inference_mode()
def test_x_vectors_are_those_of_transformers(models, waves):
    voices = speaker_model(str(models / "x-vector"))
    found = voices.embeddings([*waves[:4], SILENCE])
    features = Wav2Vec2FeatureExtractor.from_pretrained(models / "x-vector")
    model = WavLMForXVector.from_pretrained(models / "x-vector")
    for wave, embedding in zip(waves[:4], found[:4], strict=True):
        heard = features(wave, sampling_rate=16_000, return_tensors="pt")
        expected = model(**heard).embeddings[0]
        assert embedding == pytest.approx((expected / expected.norm()).numpy(), abs=1e-6)
    assert isinstance(found[4], Unscored) and "(WavLMForXVector)" in voices.name


def test_what_is_no_x_vector_model_is_refused(models):
    with pytest.raises(UsageError, match="it is a Wav2Vec2ForCTC, and an x-vector model is one"):
        XVectors(str(models / "ctc"))


def test_the_pitch_of_a_glide_is_found():
    """Against the tone that was made; a transposed one correlates, a constant one does not."""
    time = np.arange(32_000) / 16_000
    glide = 120 + 60 * np.sin(2 * np.pi * 0.7 * time)

    def tone(hz):
        phase = 2 * np.pi * np.cumsum(np.broadcast_to(hz, time.shape)) / 16_000
        return sum(np.sin(k * phase) / k for k in range(1, 6)).astype(np.float32) / 5

    tracker = pitch.PitchTracker()
    made, higher = tracker.track(tone(glide)), tracker.track(tone(1.3 * glide))
    middles = glide[np.minimum(np.arange(len(made.hz)) * 256, 31_999)]
    assert made.voiced.mean() > 0.9
    assert np.abs(made.hz - middles)[made.voiced][3:-3].max() < 10
    assert pitch.f0_correlation(made, higher) > 0.98
    half = tone(glide).copy()
    half[16_000:] = 0
    assert pitch.voicing_error(made, tracker.track(half)) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(Unscored, match="voiced in both"):
        pitch.f0_correlation(made, tracker.track(SILENCE))


def test_stoi_and_pesq_are_those_of_their_packages(waves):
    pesq = pytest.importorskip("pesq", reason="it is compiled").pesq
    from pystoi import stoi

    clean = waves[0]
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    noisy = np.append(clean + 0.02 * noise, SILENCE[:100])
    found = intelligibility.stoi(clean, noisy)
    assert found == pytest.approx(stoi(clean, noisy[: len(clean)], 16_000))
    found = intelligibility.pesq_wideband(clean, noisy)
    assert found == pytest.approx(pesq(16_000, clean, noisy[: len(clean)], "wb"))


def test_silence_has_no_stoi_and_no_pesq(waves):
    pytest.importorskip("pesq", reason="it is compiled")
    for made, said in ((SILENCE, "no utterance"), (waves[0][:1000], "a quarter of a second")):
        with pytest.raises(Unscored, match=said):
            intelligibility.pesq_wideband(waves[0][: len(made)], made)
    with pytest.raises(Unscored, match="the original is silent"):
        intelligibility.stoi(SILENCE, waves[0])
    with pytest.raises(Unscored, match=r"0\.4 s"):
        intelligibility.stoi(waves[0][:2000], waves[0][:2000])


class Loudness(torch.nn.Module):
    """Stands for UTMOS: one takes 16-bit samples, the other floats, as the two releases do."""

    def __init__(self, int16: bool):
        super().__init__()
        self.layer = torch.nn.Conv1d(1, 1, 3)
        self.int16 = int16

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        if self.int16:
            wave = wave.to(torch.float32) / 32768.0
        return 3.0 + self.layer(wave.unsqueeze(1)).abs().mean(dim=(1, 2))


@pytest.mark.parametrize("int16", [True, False])
def test_utmos_as_torchscript(int16, waves, tmp_path):
    torch.manual_seed(0)
    model = Loudness(int16)
    torch.jit.script(model).save(str(tmp_path / "utmos.pt"))
    torch.save(model.state_dict(), tmp_path / "state_dict.pt")  # others' weights lie beside it
    found = naturalness.UTMOS(str(tmp_path))
    assert found.takes_int16 == int16 and "utmos.pt" in found.name
    given = np.rint(waves[0] * 32767).astype(np.int16) if int16 else waves[0]
    expected = float(model(torch.from_numpy(given)[None]))
    assert found.score(waves[0]) == pytest.approx(expected, abs=1e-5)


def test_other_forms_of_utmos_are_refused_by_name(tmp_path):
    def refused(said):
        with pytest.raises(UsageError) as error:
            naturalness.UTMOS(str(tmp_path))
        assert said in str(error.value), error.value

    refused("no TorchScript file, but nothing")
    torch.save({"state_dict": {}}, tmp_path / "epoch=3-step=7459.ckpt")
    torch.save({}, tmp_path / "utmos22_strong_step7459_v1.pt")
    refused("but epoch=3-step=7459.ckpt, utmos22_strong_step7459_v1.pt")
    scripted = torch.jit.script(torch.nn.Linear(3, 3))
    scripted.save(str(tmp_path / "a.jit"))
    refused("gives a second of sound no score from 1 to 5 on cpu")
    scripted.save(str(tmp_path / "b.jit"))
    refused("several TorchScript files: a.jit, b.jit")


def test_a_missing_package_names_its_extra():
    with pytest.raises(UsageError, match=r"needs the package no-such.*pip install 'wavmill\[sc"):
        needed("no_such_module", "no-such")
