"""What tokens decode to, by the job: features beside WavLM's, speech beside the original."""

import json
from dataclasses import replace

import numpy as np
import torch
from conftest import ONE_THREAD, SPEECH, run_here, run_job
from refusals import assert_refused

from pipeline.evaluation.evaluate_decoding import FeatureFigures
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

ENCODER, TOKENIZER = PRETRAINED / "wavlm-tiny", PRETRAINED / "wavlm-tiny-km1024"


def test_perfect_features_have_no_error_and_the_mean_frame_has_one():
    files = TokenizerFiles.read(TOKENIZER)
    random = np.random.default_rng(0)
    waves = [random.standard_normal(n).astype(np.float32) for n in (16_000, 9_000)]
    bare = {k: v for k, v in files.weights.items() if k.startswith("encoder.")}
    true = Tokenizer(replace(files, weights=bare)).features(waves)
    mean = np.concatenate(true).mean(0)
    for decoded, error, cosine in (
        (true, 0, 1),
        ([np.broadcast_to(mean, rows.shape).copy() for rows in true], 1, None),
    ):
        figures = FeatureFigures(files, ENCODER)
        for wave, rows in zip(waves, decoded):
            figures.add(wave, rows)
        found = figures.figures()
        np.testing.assert_allclose(found["feature_error"], error, atol=1e-4)
        assert found["top_cosine"] < 0.99 if cosine is None else found["top_cosine"] > 0.9999


def test_the_job_measures_features_and_speech(tmp_path):
    files = TokenizerFiles.read(TOKENIZER)
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderConfig(width=files.width, hidden=16, layers=1, feed_forward=16))
    speaking = replace(files, vocoder=vocoder.config, vocoder_weights=vocoder.state_dict())
    speaking.save(tmp_path / "speaking")
    done = run_job(
        *("evaluate", "tokens", "--input", SPEECH, "--tokenizer", tmp_path / "speaking"),
        *("--encoder", "wavlm-tiny", "--json", tmp_path / "figures.json", *ONE_THREAD),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    # Its codes were fitted to the same encoder's features, of other speech.
    assert 0.1 < figures["feature_error"] < 0.9 and 0.5 < figures["top_cosine"] < 1
    # A vocoder of random weights makes a sound that is nothing like speech.
    assert figures["log_mel_distance"] > 1 and figures["tokens_back"] < 0.3
    assert "feature_error" in done.stdout and "tokens_back" in done.stdout


def test_another_encoder_is_refused(tmp_path):
    flags = ("evaluate", "tokens", "--input", SPEECH, "--tokenizer", TOKENIZER, "--encoder")
    assert_refused(run_here(*flags, SPEECH), "--encoder")
