"""Every path that only a GPU takes, on a fake one: devices, dtypes, waits and kernels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as flex
from fake_gpu import Watch, fake_gpu
from models import distilled, small_tokenizer

import tokenizer.passes
from tokenizer.codec.codebook import Codebook
from tokenizer.config import FocalConfig
from tokenizer.encoder.gpu.encoder import PackedWavLM
from tokenizer.tokenizer import Tokenizer

# Kernels that torch.compile makes of each function for an H100: test_kernels.py counts them.
KERNELS = {"front": 21, "positions": 3, "layer": 9}
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
    "kind, kernels", [("plain", 50), ("centred", 75), ("distilled", 120), ("causal", 55)]
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
            ours.passes.start([np.zeros(n, np.float32) for n in LENGTHS])
    assert not watch.waits
    assert (watch.to_device, watch.to_host) == (1, 1), watch.copies
    assert sum(watch.kernels.values()) <= kernels, watch.kernels


def test_a_shortlist_waits_for_nothing():
    with fake_gpu():
        codes = Codebook(torch.empty(16_384, 128), device="cuda")
        with Watch() as watch:
            found = codes.lookup(torch.empty(1000, 128, device="cuda", dtype=torch.bfloat16))
    assert not watch.waits and not watch.to_host and not watch.to_device
    assert found.shape == (1000,) and found.is_cuda
    assert sum(watch.kernels.values()) <= 60, watch.kernels
