"""--method distill from outside: it continues after a kill, and writes a usable tokenizer."""

import json
import os

import numpy as np
import pytest
import torch
from conftest import (
    ONE_THREAD,
    ROOT,
    SPEECH,
    as_flags,
    json_lines,
    kill_when,
    run_here,
    run_job,
)
from models import distilled
from refusals import assert_refused
from tars import waves

from tokenizer.audio.frames import num_frames
from tokenizer.codec.quantizers import BinarySpherical, LearnedCodebook
from tokenizer.config import FocalConfig
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.token_shards import read_tokens
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

SMALL = {
    "input": SPEECH,
    "encoder": "wavlm-tiny",
    "layer": 4,
    "method": "distill",
    "codebook-size": 32,
    "hidden": 48,
    "latent": 8,
    "warm-up-steps": 30,
    "steps": 100,
    "rows": 2,
    "row-seconds": 1,
    "checkpoint-minutes": 0.0001,
}


def flags(output, **changes) -> list:
    """The job's flags; `changes` replaces some."""
    return as_flags({**SMALL, "output": output, **changes})


def log(output) -> list[dict]:
    """The lines of the distillation's log."""
    return json_lines(output / "training/distill/log.jsonl")


@pytest.mark.slow
def test_killed_in_training_and_run_again(tmp_path):
    output = tmp_path / "distilled"
    kill_when(lambda: bool(log(output)), "train_tokenizer", *flags(output))
    kept = (output / "training/kmeans.safetensors").stat().st_mtime_ns
    assert not (output / "config.json").exists()

    # By a relative path, which is another one where Ray Train's processes work.
    done = run_job("train_tokenizer", *flags(os.path.relpath(output, ROOT)))
    assert done.returncode == 0, done.stderr
    assert (output / "training/kmeans.safetensors").stat().st_mtime_ns == kept
    assert [line["step"] for line in log(output)] == [50, 100]
    # The features of one mean frame would have an error of 1.
    last = log(output)[-1]
    assert last["feature_error"] < 0.9 and last["top_cosine"] > 0.3 and last["alone_cosine"] > 0.1
    assert 16 < log(output)[-1]["active_codes"] <= 32

    tokenizer = Tokenizer(TokenizerFiles.read(output))
    assert tokenizer.compression is not None
    made = [tokenizer.encode(wave) for wave in waves()]
    assert len(np.unique(np.concatenate(made))) > 8
    assert_refused(run_here("train_tokenizer", *flags(output)), "--output", "config.json")


def test_fewer_tokens_a_second_go_through_the_whole_job(tmp_path):
    folder, tokens = tmp_path / "distilled", tmp_path / "tokens"
    plain = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256")
    distilled(
        plain, FocalConfig(width=plain.width, latent=8, hidden=(16, 16), factors=(2, 2))
    ).save(folder)
    # Windows far shorter than the utterances: tokens must meet at their edges.
    cut = ("--window-seconds", 2.1, "--context-seconds", 0.5, *ONE_THREAD)
    done = run_job(
        *("tokenize", "--input", SPEECH, "--tokenizer", folder, "--output", tokens), *cut
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tokens / "run.json").read_text())["tokens_per_second"] == 12.5
    for path in (tokens / "shards").rglob("*.tar"):
        with open(path, "rb") as file:
            for _, row, about in read_tokens(file):
                frames = num_frames(round(about["duration_s"] * 16_000))
                assert about["num_tokens"] == len(row) == -(-frames // 4)


REFUSED = {
    "centred": ({"center": True}, "--center"),
    "blocks-for-the-rate": ({"rate": 12.5}, "--hidden"),
    "more-codes-than-tokens": ({"codebook-size": 16_384}, "--codebook-size"),
    "codes-not-a-power-of-two": ({"quantizer": "bsq", "codebook-size": 48}, "--codebook-size"),
    "no-layer-above": ({"layer": 8}, "--layer"),
    "no-such-layer": ({"layer": 9}, "--layer"),
    "mfcc": ({"encoder": "mfcc"}, "--encoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_arguments_are_refused(case, tmp_path):
    changes, word = REFUSED[case]
    assert_refused(run_here("train_tokenizer", *flags(tmp_path / "out", **changes)), word)


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_with_one_line(tmp_path):
    wild = {"learning-rate": 1e30, "warm-up-steps": 50}
    done = run_job("train_tokenizer", *flags(tmp_path / "out", **wild))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: the loss is"), done.stderr
    assert "give a lower learning rate" in last
    assert not (tmp_path / "out/config.json").exists()


def test_a_learned_codebook_follows_its_latents_and_restarts_what_is_unused():
    torch.manual_seed(0)
    truth = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
    # One code is far from everything.
    codebook = LearnedCodebook(torch.tensor([[3.0, 1.0], [-3.0, 1.0], [90.0, 90.0]]), decay=0.9)
    for _ in range(60):
        latents = truth[torch.randint(3, (64,))] + 0.1 * torch.randn(64, 2)
        quantised, tokens, _ = codebook(latents)
        assert torch.allclose(quantised, codebook.codes[tokens], atol=1) and tokens.max() < 2
    assert codebook.unused().tolist() == [2]
    codebook.restart(codebook.unused(), truth[2:])
    for _ in range(60):
        codebook(truth[torch.randint(3, (64,))] + 0.1 * torch.randn(64, 2))
    assert len(codebook.unused()) == 0
    assert torch.cdist(truth, codebook.codes).min(1).values.max() < 0.1


def test_gradients_pass_a_quantiser_unchanged():
    for quantiser in (LearnedCodebook(torch.randn(16, 5)).eval(), BinarySpherical(5)):
        latents = torch.nn.functional.normalize(torch.randn(7, 5), dim=1).requires_grad_()
        quantised, tokens, _ = quantiser(latents)
        assert tokens.shape == (7,) and torch.allclose(
            quantised, quantiser.codes[tokens], atol=1e-6
        )
        weights = torch.randn(7, 5)
        (quantised * weights).sum().backward()
        inward = weights
        if isinstance(quantiser, BinarySpherical):  # through the normalisation before it
            inward = weights - (weights * latents).sum(1, keepdim=True) * latents
        torch.testing.assert_close(latents.grad, inward.detach(), atol=1e-5, rtol=1e-4)
