"""Tokenizers of raw audio in FocalCodec's form, trained by the job: what they compute and for whom.

Whoever exports one needs binary codes, audio that is not normalised, and replicate padding.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from causal_models import streamed
from conftest import (
    ONE_THREAD,
    SPEECH,
    as_flags,
    json_lines,
    read_tokens,
    run_here,
    run_job,
    train_here,
)
from models import small_wavlm
from refusals import assert_refused
from tars import waves
from transformers import WavLMModel

from pipeline.evaluation.evaluate_decoding import FeatureFigures, decoding_figures
from pipeline.settings import TokenizeSettings
from pipeline.shards.inputs import find_shards
from pipeline.training.causal_encoder import causal_form, student_waves
from pipeline.training.levels import RAW_GAIN, raw_form
from tokenizer.encoder.causal_student import CausalStudent
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.encoder.wavlm import WavLM
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer


def job_flags(output, *switches: str) -> list:
    """A distillation of a few seconds, with binary codes."""
    flags = {
        "input": SPEECH,
        "encoder": "wavlm-tiny",
        "layer": 4,
        "method": "distill",
        "quantizer": "bsq",
        "codebook-size": 64,
        "hidden": 48,
        "encoder-steps": 60,
        "warm-up-steps": 30,
        "steps": 80,
        "rows": 2,
        "row-seconds": 1,
        "checkpoint-minutes": 0.0001,
        "output": output,
    }
    return [*switches, *as_flags(flags)]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> CausalStudent:
    """A random causal WavLM with replicate padding and a short window, with gradients."""
    folder = tmp_path_factory.mktemp("wavlm")
    small_wavlm(folder, "layer")
    config, _ = read_encoder(folder, 3)
    config = replace(causal_form(config, replicate_padding=True), past_frames=24)
    student = CausalStudent(WavLMModel.from_pretrained(folder), config, torch.zeros(64))
    with torch.no_grad():  # with taps at zero, a test would not notice what they read
        conv = student.wavlm.encoder.pos_conv_embed.conv
        conv.weight.add_(torch.randn(conv.weight.shape, generator=torch.manual_seed(4)) * 0.05)
    return student


def test_the_student_computes_what_its_tokenizer_will(student):
    """Frame t ends with sample 320 t, and the row has the teacher's number of frames."""
    encoder = CausalWavLM(student.config, student.weights())
    row = torch.randn(2, 150 * 320 + 80, generator=torch.manual_seed(5))
    heard = student_waves(row, student.config)
    frames = encoder.frames(list(heard * student.config.gain), [150, 150]).clone().view(2, 150, -1)
    with torch.no_grad():
        trained = student.features(frames)
    for features, wanted in zip(encoder(list(heard)), trained, strict=True):
        torch.testing.assert_close(features, wanted, atol=1e-4, rtol=1e-4)
    # Samples after the last of a chunk's last frame, 99, change nothing of the chunk.
    changed = heard.clone()
    changed[:, 320 * 99 + 399 + 1 :] = 0
    for before, after in zip(encoder(list(heard)), encoder(list(changed)), strict=True):
        assert torch.allclose(before[:100], after[:100], atol=1e-5)
        assert not torch.allclose(before[100], after[100], atol=1e-3)


def test_an_encoder_for_raw_audio_has_the_features_of_amplified_audio(tmp_path):
    for norm in ("layer", "group"):
        small_wavlm(tmp_path / norm, norm)
        config, weights = read_encoder(tmp_path / norm, 3)
        config = replace(config, normalize=True)
        raw, folded = raw_form(config, weights)
        wave = torch.randn(16_000, generator=torch.manual_seed(6)) / 20
        assert not raw.normalize and raw_form(raw, folded) == (raw, folded)
        (expected,), (features,) = (
            WavLM(config, weights)([wave * RAW_GAIN]),
            WavLM(raw, folded)([wave]),
        )
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def feature_error(output) -> float:
    """Of decoded features against WavLM's on normalised audio, as jobs/evaluate.py has it."""
    files = TokenizerFiles.read(output)
    shards = find_shards([str(SPEECH / "speech-000002.tar")])[1]
    features = FeatureFigures(files, PRETRAINED / "wavlm-tiny")
    windowing = TokenizeSettings().windowing(files)
    return decoding_figures(shards, files, windowing, features=features).figures["feature_error"]


@pytest.mark.slow
def test_a_causal_one_streams_the_tokens_of_the_job(tmp_path):
    """How each of its stages continues after a stop: see test_training_resume.py."""
    output, shard = tmp_path / "causal", SPEECH / "speech-000002.tar"
    done = run_job("train_tokenizer", *job_flags(output, "--causal", "--replicate-padding"))
    assert done.returncode == 0, done.stderr
    assert "encoding in fp32 on cpu" in done.stderr
    losses = [line["loss"] for line in json_lines(output / "training/encoder/log.jsonl")]
    # The features of one mean frame would have an error of 1.
    assert losses[-1] < losses[0] < 0.9
    assert feature_error(output) < 0.95

    tokenizer = Tokenizer.from_pretrained(output)
    encoder = tokenizer.encoder.config
    assert encoder.replicate_padding and encoder.past_frames == 508 and not tokenizer.normalize
    place = ("--input", shard, "--tokenizer", output, "--output", tmp_path / "tokens")
    done = run_job("tokenize", *place, *ONE_THREAD)
    assert done.returncode == 0, done.stderr
    made = [tokens for tokens, _ in read_tokens(tmp_path / "tokens/shards" / shard.name).values()]
    for wave, tokens in zip(waves("speech-000002")[:5], made):
        assert len(tokens) == -(-len(wave) // 320) and len(np.unique(tokens)) > 4
        assert np.array_equal(np.concatenate(streamed(tokenizer, wave, 4000)), tokens)
    place = ("--input", shard, "--tokenizer", output, "--output", tmp_path / "short")
    done = run_here("tokenize", *place, "--window-seconds", 8)
    assert_refused(done, "--window-seconds", "10.24")


@pytest.mark.slow
def test_one_that_is_not_causal_hears_every_level(tmp_path):
    output = tmp_path / "raw"
    done = train_here("train_tokenizer", *job_flags(output, "--raw-input"))
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.from_pretrained(output)
    assert not tokenizer.normalize
    # 64 codes: chance is under 2 %.
    for wave in waves("speech-000002")[:3]:
        tokens = tokenizer.encode(wave)
        assert len(np.unique(tokens)) > 4
        assert np.mean(tokenizer.encode(0.5 * wave) == tokens) > 0.5
    assert feature_error(output) < 0.95


def test_padding_without_causal_is_refused(tmp_path):
    done = run_here("train_tokenizer", *job_flags(tmp_path / "out", "--replicate-padding"))
    assert_refused(done, "--replicate-padding", "--causal")
