"""Replicate padding: each convolution is padded on its left by its first input.

The reference pads them one by one, and has the training form's layers.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from causal_models import PAST, SAMPLES, noise, small_student, streamed, tokenizer_of

from tokenizer.audio.arrays import utterance_of
from tokenizer.audio.windows import Windowing
from tokenizer.encoder.causal_student import CausalStudent
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.encoder.chunk_mask import block_mask
from tokenizer.encoder.trainable_layers import run_layers


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> CausalStudent:
    """As small_student."""
    return small_student(tmp_path_factory.mktemp("wavlm"))


def replicated(student: CausalStudent, wave: np.ndarray) -> torch.Tensor:
    """(T, D) features of a causal encoder whose convolutions are padded one by one."""
    weights, config = student.weights(), student.config

    def padded(x: torch.Tensor, taps: int) -> torch.Tensor:
        return F.pad(x, (taps - 1, 0), mode="replicate")

    x = torch.from_numpy(wave)[None, None] * config.gain
    for number, (taps, stride) in enumerate(zip(config.conv_kernel, config.conv_stride)):
        name = f"feature_extractor.conv_layers.{number}."
        kernel, bias = weights[name + "conv.weight"], weights[name + "conv.bias"]
        x = F.conv1d(padded(x, taps), kernel, bias, stride=stride).transpose(1, 2)
        norm = weights[name + "layer_norm.weight"], weights[name + "layer_norm.bias"]
        x = F.gelu(F.layer_norm(x, x.shape[-1:], *norm)).transpose(1, 2)
    with torch.no_grad():
        x = student.wavlm.feature_projection(x.transpose(1, 2))[0]
        conv = student.wavlm.encoder.pos_conv_embed.conv
        taps = conv.weight.shape[-1]
        position = F.conv1d(
            padded(x.transpose(1, 2), taps), conv.weight, conv.bias, groups=conv.groups
        )
        x = x + F.gelu(position).transpose(1, 2)
        mask = block_mask(x.shape[1], 0, chunk=config.chunk_frames, window=config.past_frames)
        return run_layers(student.wavlm, x, mask=mask)[0]


def test_replicate_padding_is_that_of_each_convolution(student):
    """Features, of one pass and of steps of a chunk, equal a direct form."""
    encoder = CausalWavLM(replace(student.config, replicate_padding=True), student.weights())
    waves = [noise(n, seed=n) for n in (400, 640, 641, SAMPLES)]
    padded = [torch.from_numpy(np.r_[np.full(399, wave[0]), wave]) for wave in waves]
    for together in (None, len(waves)):
        encoder.utterances_per_group = together
        for wave, features in zip(waves, encoder(padded), strict=True):
            assert len(features) == -(-len(wave) // 320)
            torch.testing.assert_close(features, replicated(student, wave), atol=1e-4, rtol=1e-4)
    state, steps = None, []
    for first in range(0, len(features), 4):
        count = min(4, len(features) - first)
        samples = padded[-1][320 * first : 320 * (first + count - 1) + 400]
        step, state = encoder.step(samples, state)
        steps.append(step)
    torch.testing.assert_close(torch.cat(steps), features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factors", [(), (2, 2)], ids=["kmeans", "12.5 Hz"])
def test_a_stream_with_replicate_padding(student, factors):
    tokenizer, wave = tokenizer_of(student, factors, replicate_padding=True), noise()
    each = tokenizer.frames_per_token
    offline = tokenizer.encode(wave)
    assert len(offline) == math.ceil(math.ceil(SAMPLES / 320) / each)
    assert len(np.unique(offline)) > 20
    for most in (1, 700, 5_000, 200_000):
        short = wave[:9_000] if most == 1 else wave
        expected = tokenizer.encode(short)
        assert np.array_equal(np.concatenate(streamed(tokenizer, short, most)), expected)
    # A chunk's tokens come with its last frame, which ends 960 samples after the chunk's start.
    stream, whole = tokenizer.stream(), 4 // each
    for chunk in range(3):
        begin = 1280 * chunk
        assert len(stream.push(wave[max(0, begin - 319) : begin + 960])) == 0
        assert np.array_equal(
            stream.push(wave[begin + 960 : begin + 961]),
            offline[whole * chunk : whole * (chunk + 1)],
        )
    assert stream.latency_seconds == 0.08
    changed = wave.copy()
    changed[961 + 1280 * 70 :] = noise(SAMPLES - 961 - 1280 * 70, seed=9)
    assert np.array_equal(tokenizer.encode(changed)[: whole * 71], offline[: whole * 71])
    changed[1280 * 70 :] = noise(SAMPLES - 1280 * 70, seed=9)
    assert not np.array_equal(tokenizer.encode(changed)[: whole * 71], offline[: whole * 71])
    # As short as any utterance may be.
    for samples in (400, 640, 641, 960, 961, 1281):
        made = np.concatenate(streamed(tokenizer, wave[:samples], 300))
        assert len(made) == math.ceil(math.ceil(samples / 320) / each)
        assert np.array_equal(made, tokenizer.encode(wave[:samples]))
    assert len(np.concatenate(streamed(tokenizer, wave[:399], 50))) == 0
    with pytest.raises(ValueError, match="399 samples"):
        tokenizer.encode(wave[:399])


def test_windows_start_with_the_padding_of_the_utterance():
    windowing = Windowing.of_seconds(
        window_seconds=2, context_seconds=0.2, normalize=False, past=PAST, chunk=4, left_padding=399
    )
    assert len(windowing.plan_samples(windowing.samples)) == 1
    assert len(windowing.plan_samples(windowing.samples + 1)) == 2
    for samples in (400, 32_000, 32_001, 100_000, 150_081):
        wave = noise(samples)
        utterance = utterance_of(wave, 16_000)
        plan = windowing.plan_samples(samples)
        assert plan[-1].keep_to == -(-samples // 320)
        padded = np.concatenate([np.full(399, wave[0]), wave])
        for window, cut in zip(plan, windowing.cut(utterance, plan), strict=True):
            # A whole utterance keeps the samples that fill no frame.
            end = 320 * (window.stop - 1) + 400 if len(plan) > 1 else None
            assert np.array_equal(cut, padded[320 * window.start : end])
