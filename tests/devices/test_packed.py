"""The encoder of a GPU, run on the CPU: the same features and tokens as the CPU's own encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention as flex
from models import distilled, small_encoder, small_tokenizer

from tokenizer.config import FocalConfig
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.encoder.gpu import encoder as packed_encoder
from tokenizer.encoder.gpu.encoder import PackedWavLM
from tokenizer.encoder.gpu.functions import PassPlaces, Shape, block_mask
from tokenizer.encoder.gpu.layout import BLOCK, ROWS, Layout, pack, passes_of, unpack
from tokenizer.encoder.wavlm import WavLM
from tokenizer.passes import DevicePasses
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.tokenizer import Tokenizer

# One frame; frames that end with the last sample, and one sample later; over a block of rows.
LENGTHS = (400, 16_000, 719, 720, 60_000, 5000)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Plain PyTorch, with weights as a GPU has them."""
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)


def noise(lengths=LENGTHS):
    random = np.random.default_rng(0)
    return [random.standard_normal(n).astype(np.float32) for n in lengths]


def rows_of(encoder, waves):
    """(T, D) of each waveform by the packed encoder."""
    packed = PackedWavLM(encoder, compiled=False)
    layout = Layout.of([len(wave) for wave in waves], packed.alignment)
    buffer = pack(layout, waves, pinned=False, chunk=packed.chunk, window=packed.window)
    x = packed(unpack(buffer, layout))
    assert len(x) in ROWS
    return [x[a : a + n] for a, n in zip(layout.starts, layout.lengths, strict=True)]


def assert_close(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5 * float(b.abs().max()), rtol=0)


@pytest.mark.parametrize(
    "kind, norm", [("wavlm", "layer"), ("wavlm", "group"), ("hubert", "layer"), ("hubert", "group")]
)
def test_features_are_those_of_the_encoder(tmp_path, kind, norm, monkeypatch):
    small_encoder(tmp_path, kind, norm)
    encoder, waves = WavLM(*read_encoder(tmp_path, 3)), noise()
    expected = encoder([torch.from_numpy(wave) for wave in waves])
    assert_close(rows_of(encoder, waves), expected)
    # Convolved in pieces, as passes of one very long window are.
    monkeypatch.setattr(packed_encoder, "ROWS", (64,))
    assert_close(rows_of(encoder, waves), expected)


@pytest.mark.parametrize("replicate", [False, True])
def test_a_causal_encoder_too(tmp_path, replicate):
    small_encoder(tmp_path, "wavlm", "layer")
    config, weights = read_encoder(tmp_path, 3)
    changes = {"causal": True, "normalize": False, "past_frames": 24, "gain": 1.5}
    config, waves = replace(config, replicate_padding=replicate, **changes), noise()
    encoder = CausalWavLM(config, weights)
    expected = encoder([torch.from_numpy(wave) for wave in waves])
    # A CPU lays it out anew.
    encoder.position.weight = weights["encoder.pos_conv_embed.conv.weight"].unsqueeze(2)
    assert_close(rows_of(encoder, waves), expected)


@pytest.mark.parametrize("chunk, window", [(0, 0), (4, 24), (4, 512)])
def test_blocks_of_keys_hold_all_that_the_mask_shows(chunk, window):
    """FlexAttention on a CPU does not look at them."""
    layout = Layout.of([400, 60_000, 41_000, 90_000, 5000, 33_000, 400_000])
    pieces = unpack(
        pack(layout, noise([400] * 7), pinned=False, chunk=chunk, window=window), layout
    )
    shape = Shape(1, True, eps=1e-5, farthest=10, chunk=chunk, window=window)
    places = PassPlaces(
        pieces.owner,
        pieces.block_counts,
        key_blocks=pieces.key_blocks,
        by_distance=torch.zeros(1, 21),
    )
    mask, row = block_mask(places, shape), torch.arange(layout.rows)
    seen = mask.mask_mod(None, None, row[:, None], row[None])
    blocks = seen.unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK)
    for query in range(layout.rows // BLOCK):
        listed = [
            set(indices[0, 0, query, : counts[0, 0, query]].tolist())
            for counts, indices in (
                (mask.kv_num_blocks, mask.kv_indices),
                (mask.full_kv_num_blocks, mask.full_kv_indices),
            )
        ]
        partial, full = listed
        assert not partial & full
        of_speech = pieces.owner.view(-1, BLOCK)[query] >= 0
        some = {k for k in range(len(blocks)) if blocks[query, k][of_speech].any()}
        assert some <= partial | full
        assert all(blocks[query, key].all() for key in full)
        assert seen[query * BLOCK : (query + 1) * BLOCK].any(1).all()
        # Few blocks are listed in vain: those on either side of an utterance's ends.
        assert len(partial | full) <= len(some) + 2


@pytest.mark.parametrize("kind", ["plain", "centred", "distilled"])
def test_tokens_are_those_of_the_cpu(tmp_path, monkeypatch, kind):
    files = small_tokenizer(tmp_path)
    if kind == "centred":
        files.weights["center"] = torch.linspace(-3, 3, files.width)
    if kind == "distilled":
        shape = FocalConfig(width=64, latent=8, hidden=(32, 16), factors=(2, 1))
        files = distilled(files, shape)
    waves, ours = noise(), Tokenizer(files)
    expected = [ours.encode_windows([wave])[0] for wave in waves]
    features = ours.features(waves)
    monkeypatch.setattr("tokenizer.encoder.gpu.layout.ROWS", (64, 256))  # several passes
    ours.passes = DevicePasses(PackedWavLM(ours.encoder, compiled=False), ours)
    monkeypatch.setattr("tokenizer.encoder.gpu.layout.BLOCK", 64)
    monkeypatch.setattr("tokenizer.encoder.gpu.functions.BLOCK", 64)
    assert len(passes_of(LENGTHS)) == 2
    on_device = [torch.from_numpy(wave) for wave in waves]
    for given in (waves, on_device):
        tokens = ours.start_windows(given)()
        assert all(np.array_equal(a, b) for a, b in zip(tokens, expected, strict=True))
        assert tokens[0].dtype == ours.token_dtype
    for a, b in zip(ours.features(waves), features, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())
