"""The causal tokenizer: a frame sees nothing after its chunk, and a stream equals one pass.

The reference is the training form, with one dense mask where inference has blocks and a KV cache.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from causal_models import PAST, SAMPLES, noise, small_student, streamed, tokenizer_of
from conftest import SPEECH, as_flags, run_here
from models import small_encoder, small_tokenizer, small_wavlm
from refusals import assert_refused

from tokenizer.audio.windows import Windowing
from tokenizer.config import EncoderError
from tokenizer.encoder.causal_student import CausalStudent
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> CausalStudent:
    """As small_student."""
    return small_student(tmp_path_factory.mktemp("wavlm"))


def test_inference_has_the_features_of_the_training_form(student):
    encoder = CausalWavLM(student.config, student.weights())
    waves = [torch.from_numpy(noise(n, seed=n)) for n in (SAMPLES, 400, 30_000, SAMPLES)]
    for padded in (None, len(waves)):  # one by one as on a CPU, all together as on a GPU
        encoder.utterances_per_group = padded
        for wave, features in zip(waves, encoder(waves)):
            frames = encoder.frames([wave * student.config.gain], [len(features)]).clone()
            with torch.no_grad():
                expected = student.features(frames[None])[0]
            torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factors", [(), (1, 1), (2, 2)], ids=["kmeans", "50 Hz", "12.5 Hz"])
def test_a_stream_gives_the_tokens_of_one_pass(student, factors):
    tokenizer, wave = tokenizer_of(student, factors), noise()
    offline = tokenizer.encode(wave)
    assert len(np.unique(offline)) > 20
    for most in (700, 5_000, 200_000):
        assert np.array_equal(np.concatenate(streamed(tokenizer, wave, most)), offline)


@pytest.mark.parametrize("factors", [(), (1, 1)], ids=["kmeans", "distilled"])
def test_samples_after_a_chunk_change_none_of_its_tokens(student, factors):
    tokenizer, wave = tokenizer_of(student, factors), noise()
    before = tokenizer.encode(wave)
    for chunk in (1, 70):
        end = 4 * chunk * 320 + 80
        changed = wave.copy()
        changed[end:] = noise(SAMPLES - end, seed=9)
        after = tokenizer.encode(changed)
        assert np.array_equal(after[: 4 * chunk], before[: 4 * chunk])
        assert not np.array_equal(after[4 * chunk :], before[4 * chunk :])
        # A chunk's tokens come with the last sample that they depend on, and no sooner.
        stream = tokenizer.stream()
        assert len(stream.push(wave[: end - 1])) == 4 * (chunk - 1)
        assert np.array_equal(stream.push(wave[end - 1 : end]), before[4 * (chunk - 1) : 4 * chunk])
    assert stream.latency_seconds == 0.085


def test_the_end_of_a_stream(student):
    tokenizer = tokenizer_of(student, (1, 1))
    assert len(np.concatenate(streamed(tokenizer, noise(399), 50))) == 0
    for frames in (1, 3, 4, 5):
        wave = noise(80 + 320 * frames)
        assert np.array_equal(
            np.concatenate(streamed(tokenizer, wave, 300)), tokenizer.encode(wave)
        )
    stream = tokenizer.stream()
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(noise(10))
    with pytest.raises(ValueError, match="one channel"):
        tokenizer.stream().push(noise(10)[None])
    with pytest.raises(ValueError, match=r"int16.*float"):
        tokenizer.stream().push(noise(10).astype(np.int16))


def test_windows_of_long_audio_keep_the_grid_and_the_past():
    windowing = Windowing.of_seconds(
        window_seconds=2.05, context_seconds=0.2, normalize=False, past=PAST, chunk=4
    )
    assert windowing.frames == 100
    for frames in (100, 101, 175, 176, 177, 500, 1003):
        plan = windowing.plan(frames)
        assert np.array_equal(
            np.concatenate([np.arange(w.keep_from, w.keep_to) for w in plan]), np.arange(frames)
        )
        for window in plan:
            assert window.start % 4 == 0 and window.stop - window.start <= 100
            assert window.keep_from - window.start >= min(PAST, window.keep_from)
    with pytest.raises(ValueError, match=r"0\.56 seconds"):
        Windowing.of_seconds(
            window_seconds=0.5, context_seconds=0.1, normalize=False, past=PAST, chunk=4
        )


def test_a_folder_says_that_it_is_causal(student, tmp_path):
    files = {f"encoder.{name}": weight for name, weight in student.weights().items()}
    files["codebook.codes"] = torch.randn(8, 64)
    TokenizerFiles(student.config, "l2", files).save(tmp_path)
    assert TokenizerFiles.read(tmp_path).encoder == student.config
    with pytest.raises(EncoderError, match="cannot be causal"):
        replace(student.config, feat_extract_norm="group")
    plain = small_tokenizer(tmp_path / "wavlm")
    assert "causal" not in plain.encoder.to_dict()
    with pytest.raises(ValueError, match="not causal"):
        Tokenizer(plain).stream()


def test_what_cannot_be_causal_is_refused(tmp_path):
    small_wavlm(tmp_path / "base", "group")
    small_encoder(tmp_path / "hubert", "hubert", "layer")
    base, hubert = ({"encoder": tmp_path / name, "layer": 2} for name in ("base", "hubert"))
    usual = {"input": SPEECH, "encoder": "wavlm-tiny", "layer": 4, "method": "distill"}
    usual |= {"codebook-size": 32, "causal": True, "output": tmp_path / "out"}
    for changes, problem in (
        ({"method": "kmeans"}, "--causal"),
        ({"center": True}, "--center"),
        (base, "wavlm-large's shape"),
        (hubert, "not a WavLM"),
    ):
        assert_refused(run_here("train_tokenizer", *as_flags(usual | changes)), problem)
