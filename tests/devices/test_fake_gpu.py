"""Every path that only a GPU takes, on a fake one: devices, dtypes, waits and kernels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as flex
from fake_gpu import Watch, fake_gpu
from lm_models import causal_files, row_of, shaken, small_config, small_lm, speaking, speech
from models import distilled, small_tokenizer

import tokenizer.passes
from lm import attention, embeddings
from lm.generation import Sampling
from lm.inference import PackedLM
from lm.model import SpeechLM, targets, token_losses
from tokenizer.codec.codebook import Codebook
from tokenizer.codec.decoder import Decoding
from tokenizer.config import FocalConfig
from tokenizer.encoder.gpu.encoder import PackedWavLM
from tokenizer.tokenizer import Tokenizer

# Kernels that torch.compile makes of each function for an H100: test_kernels.py counts them.
KERNELS = {"front": 18, "positions": 3, "layer": 9}
LENGTHS = (400, 16_000, 719, 33_000, 5000)


@pytest.fixture
def eager_flex(monkeypatch):
    """FlexAttention without torch.compile, which traces no fake GPU."""
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def files_of(kind, folder):
    files = small_tokenizer(folder)
    if kind == "causal":
        encoder = replace(files.encoder, causal=True, normalize=False, past_frames=24)
        files = replace(files, encoder=encoder)
    if kind == "centred":
        files.weights["center"] = torch.zeros(files.width)
    if kind == "distilled":
        shape = FocalConfig(width=64, latent=8, hidden=(32, 16), factors=(2, 1))
        files = distilled(files, shape)
    return files


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "kind, kernels", [("plain", 50), ("centred", 75), ("distilled", 175), ("causal", 55)]
)
def test_a_batch_is_one_copy_in_one_out_and_no_wait(
    tmp_path, eager_flex, monkeypatch, kind, kernels, precision
):
    """And at most so many kernels, with two layers."""
    files, watch = files_of(kind, tmp_path), Watch()
    run = PackedWavLM._run
    monkeypatch.setattr(tokenizer.passes, "packed_wavlm", lambda e: PackedWavLM(e, compiled=False))

    def counted(self, function, *args):
        with watch.compiled(KERNELS[function.__name__]):
            return run(self, function, *args)

    monkeypatch.setattr(PackedWavLM, "_run", counted)
    with fake_gpu():
        ours = Tokenizer(files, "cuda", precision)
        with watch:
            waves = [np.zeros(n, np.float32) for n in LENGTHS]
            ours.passes.start(waves)
    assert not watch.waits
    assert (watch.to_device, watch.to_host) == (1, 1), watch.copies
    assert sum(watch.kernels.values()) <= kernels, watch.kernels
    with fake_gpu(), watch:
        ours.passes.start([torch.zeros(n, device="cuda") for n in LENGTHS])
    # Samples that are there already, and then only where they lie.
    assert not watch.waits and (watch.to_device, watch.to_host) == (2, 2), watch.copies


def test_a_shortlist_waits_for_nothing():
    with fake_gpu():
        codes = Codebook(torch.empty(16_384, 128), device="cuda")
        with Watch() as watch:
            found = codes.lookup(torch.empty(1000, 128, device="cuda", dtype=torch.bfloat16))
    assert not watch.waits and not watch.to_host and not watch.to_device
    assert found.shape == (1000,) and found.is_cuda
    assert sum(watch.kernels.values()) <= 60, watch.kernels


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("inputs", ["embedding", "decompressor"])
def test_the_language_model_waits_for_nothing_in_training(
    tmp_path, eager_flex, monkeypatch, inputs, precision
):
    """Rows with a decompressor's inputs are looked at on the host once; see rows_on_host."""
    model = lm_of(inputs, tmp_path)
    tokens, utterance = row_of([speech(70, 0), speech(9, 1)], 4, 120)
    monkeypatch.setattr(attention, "_compiled", lambda function: function)
    host = embeddings.rows_on_host(tokens, utterance)
    monkeypatch.setattr(embeddings, "rows_on_host", lambda *_: host)
    with fake_gpu():
        model.to("cuda")
        rows = tokens.to("cuda"), utterance.to("cuda")
        with Watch() as watch, torch.autocast("cuda", precision, enabled=precision.itemsize == 2):
            logits = model(*rows)
            losses = token_losses(logits, targets(*rows, 4))
    assert losses.shape == tokens.shape and losses.is_cuda
    assert not watch.waits and not watch.to_host
    # The buckets of distances, and where utterances lie.
    assert watch.to_device == 1 + (inputs == "decompressor"), watch.copies


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("inputs", ["embedding", "decompressor"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=5), Sampling(temperature=0)])
def test_a_step_of_generation_copies_random_numbers_only(tmp_path, inputs, precision, sampling):
    model = lm_of(inputs, tmp_path)
    model.encoder.to(precision)
    model.head.to(precision)
    generators = [torch.Generator() for _ in range(4)]
    with fake_gpu():
        packed = PackedLM(model.to("cuda"))
        logits, state = packed.begin([torch.zeros(n, dtype=torch.long) for n in (40, 40, 8, 8)])
        with Watch() as watch:
            for _ in range(2):
                tokens = sampling.draw(logits, generators)
                logits = packed.step(tokens, state)
    assert tokens.is_cuda and logits.shape == (4, 4, 32)
    assert not watch.waits and not watch.to_host
    assert watch.to_device == (0 if sampling.temperature == 0 else 2), watch.copies


@pytest.mark.parametrize("causal", [False, True])
def test_decoding_runs(tmp_path, causal):
    """Decompressor and vocoder, whose samples are fetched when they are asked for."""
    files = speaking(causal_files(tmp_path), causal)
    with fake_gpu():
        decoding = Decoding(files, "cuda")
        with Watch() as watch:
            features = decoding.features([np.zeros(50, np.int64), np.zeros(30, np.int64)])
            wave = decoding.vocoder(features[0][None])
    assert wave.shape == (1, 320 * 50 + 80) and wave.is_cuda
    assert not watch.waits and not watch.to_host


def lm_of(inputs, folder):
    if inputs == "embedding":
        return small_lm()
    files = causal_files(folder)
    return shaken(SpeechLM.from_tokenizer(small_config(inputs=inputs), files))
