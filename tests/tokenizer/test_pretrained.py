"""What ships: wavlm-tiny and its tokenizers are as their cards and names say."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import ONE_THREAD, ROOT, SPEECH, run_here, run_job
from transformers import WavLMModel

from pipeline.shards.inputs import find_shards
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

ENCODER = PRETRAINED / "wavlm-tiny"
TOKENIZERS = {"wavlm-tiny-d1024": 1024, "wavlm-tiny-km256": 256, "wavlm-tiny-km1024": 1024}
DISTILLED = "wavlm-tiny-d1024"


def test_the_encoder_is_small_and_is_a_wavlm():
    size = sum(path.stat().st_size for path in ENCODER.iterdir())
    assert size <= 16e6
    model, info = WavLMModel.from_pretrained(ENCODER, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    config = model.config
    assert config.num_hidden_layers >= 8 and config.feat_extract_norm == "layer"
    assert config.do_stable_layer_norm and np.prod(config.conv_stride) == 320
    assert (ENCODER / "README.md").read_text().startswith("---\n")


@pytest.mark.parametrize("name, codes", TOKENIZERS.items())
def test_a_tokenizer_holds_the_encoder(name, codes):
    files = TokenizerFiles.read(PRETRAINED / name)
    assert files.codebook_size == codes
    config, weights = read_encoder(ENCODER, files.encoder.layer)
    assert config == files.encoder
    for key, value in weights.items():
        assert torch.equal(files.weights[f"encoder.{key}"], value)


def test_one_sentence_by_two_voices_is_closer_than_two_by_one(tmp_path):
    """On average over tests/speech, by a small margin: see the figures in the documentation."""
    flags = ("--input", SPEECH, "--tokenizer", "wavlm-tiny-km256")
    done = run_job("evaluate", "tokens", *flags, "--json", tmp_path / "figures.json", *ONE_THREAD)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["edit_distance_same_text"] < figures["edit_distance_same_speaker"]
    assert figures["active_codes"] > 200


def loudness(wave: np.ndarray) -> np.ndarray:
    """Log power of each 20 ms."""
    frames = wave[: len(wave) // 320 * 320].reshape(-1, 320)
    return np.log(frames.astype(np.float64).var(1) + 1e-6)


def test_the_distilled_tokenizer_resynthesises_speech():
    size = sum(path.stat().st_size for path in (PRETRAINED / DISTILLED).iterdir())
    assert size <= 16e6
    tokenizer = Tokenizer(TokenizerFiles.read(PRETRAINED / DISTILLED))
    _, shards = find_shards([str(SPEECH)])
    with open_shard(shards[0]) as stream:
        waves = [u.waveform for _, u, _ in islice(read_utterances(stream, 1 << 20), 4)]
    back = []
    for wave in waves:
        tokens = tokenizer.encode(wave)
        made = tokenizer.decode(tokens)
        assert len(made) == 320 * len(tokens) + 80 and 0.02 < made.std() < 0.2
        original, decoded = loudness(wave)[: len(tokens)], loudness(made)[: len(tokens)]
        assert np.corrcoef(original, decoded)[0, 1] > 0.8
        back.append(np.mean(tokenizer.encode(made) == tokens))
    # Chance is under one in a hundred.
    assert np.mean(back) > 0.15


def test_loudness_does_not_change_tokens():
    tokenizer = Tokenizer(TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256"))
    random = np.random.default_rng(0)
    wave = random.standard_normal(32_000).astype(np.float32) * np.linspace(0, 0.1, 32_000)
    np.testing.assert_array_equal(tokenizer.encode(wave), tokenizer.encode(wave / 4))


def test_a_name_that_does_not_ship_is_answered_with_those_that_do(tmp_path):
    flags = ("--input", SPEECH, "--tokenizer", "wavlm-tiny-km257", "--output", tmp_path / "out")
    done = run_here("tokenize", *flags)
    assert done.returncode == 2
    assert all(name in done.stderr for name in TOKENIZERS), done.stderr
    assert str(ROOT) not in done.stderr
