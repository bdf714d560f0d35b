"""MFCCs as an encoder: one row per WavLM frame, computed from the samples that the frame sees."""

import numpy as np
import pytest
import torch
from conftest import SPEECH, run_job

from tokenizer.audio.frames import num_frames
from tokenizer.config import MFCCConfig
from tokenizer.encoder.mfcc import MFCC
from tokenizer.storage.tokenizer_files import TokenizerFiles


@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 16_000, 16_123])
def test_a_row_for_each_frame(samples):
    wave = torch.randn(samples)
    (rows,) = MFCC(MFCCConfig())([wave])
    assert rows.shape == (num_frames(samples), 39) and rows.isfinite().all()


def test_a_frame_is_its_own_400_samples():
    torch.manual_seed(0)
    wave = torch.randn(16_000)
    changed = wave.clone()
    changed[320 * 20 : 320 * 20 + 400] += torch.randn(400)
    before, after = (MFCC(MFCCConfig())([x])[0][:, :13] for x in (wave, changed))
    moved = (before - after).abs().amax(1)
    assert moved.argmax() == 20 and moved[:19].max() < 1e-3 and moved[22:].max() < 1e-3


def test_standardized_rows_have_no_mean_and_unit_variance():
    (rows,) = MFCC(MFCCConfig(standardize=True))([torch.randn(32_000)])
    torch.testing.assert_close(rows.mean(0), torch.zeros(39), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(39), atol=1e-3, rtol=0)


def test_a_tokenizer_of_mfccs(tmp_path):
    flags = ("--input", SPEECH, "--encoder", "mfcc", "--codebook-size", 32)
    done = run_job("train_tokenizer", *flags, "--output", tmp_path / "mfcc")
    assert done.returncode == 0, done.stderr
    files = TokenizerFiles.read(tmp_path / "mfcc")
    assert files.encoder == MFCCConfig() and files.weights.keys() == {"codebook.codes"}
    assert np.isfinite(files.weights["codebook.codes"].numpy()).all()
