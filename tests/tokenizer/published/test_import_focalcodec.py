"""FocalCodec's weights here: what the authors' code gives for the same weights and speech.

The reference vectors were made with that code: see tests/reference/make_focalcodec.py.
"""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from reference.drawn import read_reference, speech

from tokenizer.errors import UsageError
from tokenizer.published.focalcodec import import_focalcodec
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

torch.set_num_threads(1)
NON_CAUSAL, CAUSAL, NUMBERED = "focalcodec_25hz", "focalcodec_causal", "focalcodec_numbered"
references = pytest.mark.parametrize("name", [NON_CAUSAL, CAUSAL, NUMBERED])
CHUNK = 4 * 320


def imported(name: str, change=None) -> tuple[dict, TokenizerFiles]:
    """A reference and its tokenizer. change: called with configuration and weights before."""
    reference, weights = read_reference(name)
    if change:
        change(reference["config"], weights)
    return reference, import_focalcodec(reference["config"], weights, "owner/codec")


@references
def test_tokens_features_and_samples_are_theirs(name, tmp_path):
    reference, files = imported(name)
    files.save(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    tokens = tokenizer.encode(speech(reference["samples"]))
    assert tokens.tolist() == reference["tokens"]
    (features,) = tokenizer.decode_features([tokens])
    found = features.flatten()[:: reference["stride"]]
    np.testing.assert_allclose(found, reference["features"], atol=1e-4)
    waveform = tokenizer.decode(tokens)
    assert len(waveform) == reference["waveform_samples"]
    found = waveform[:: 8 * reference["stride"]]
    np.testing.assert_allclose(found, reference["waveform"], atol=1e-4)
    assert tokenizer.decoding.sample_rate == (24_000 if name == CAUSAL else 16_000)


def test_streams_are_theirs():
    reference, files = imported(CAUSAL)
    tokenizer, wave = Tokenizer(files), speech(reference["samples"])
    stream, voice = tokenizer.stream(), tokenizer.speech_stream()
    assert stream.latency_seconds == 0.08
    tokens, samples = [], []
    for start in range(0, len(wave), CHUNK):
        new = stream.push(wave[start : start + CHUNK])
        tokens.append(new)
        samples.append(voice.push(new))
    assert {len(new) for new in tokens[:-1]} == {4}  # no chunk waits for the next one
    tokens.append(stream.finish())
    samples += [voice.push(tokens[-1]), voice.finish()]
    assert np.concatenate(tokens).tolist() == reference["tokens"]
    found = np.concatenate(samples)[:: 8 * reference["stride"]]
    np.testing.assert_allclose(found, reference["waveform"], atol=1e-4)


def test_the_files_say_where_they_are_from():
    reference, files = imported(CAUSAL)
    config = reference["config"]
    assert files.made_by == {"method": "imported", "from": "owner/codec", "config": config}
    encoder = files.encoder
    assert (encoder.gain, encoder.normalize, encoder.past_frames) == (1.0, False, 12)
    assert files.compressor.past_frames == 20
    assert not files.vocoder.margin and not files.vocoder.limiter
    assert not any(name.startswith("encoder.encoder.layer_norm") for name in files.weights)


def test_both_generations_of_names_give_one_tokenizer():
    def rename(config, weights):
        config["decoder_config"]["input_channels"] = config["decoder_config"].pop("input_dim")
        for name in list(weights):
            weight = weights.pop(name)
            if ".qkv_proj." in name:
                for letter, part in zip("qkv", weight.chunk(3)):
                    weights[name.replace("qkv", letter)] = part
                continue
            down = name.startswith("compressor.")
            new = name.replace(".downscale.", ".0.", 1) if down else name
            new = new.replace(".focal_block.", ".1." if down else ".0.", 1)
            weights[new if down else new.replace(".upscale.", ".1.", 1)] = weight
        weights["encoder.encoder.norm.weight"] = torch.ones(24)
        weights["encoder.encoder.norm.bias"] = torch.ones(24)
        weights["quantizer.mask"] = 2 ** torch.arange(8, -1, -1)

    assert imported(NON_CAUSAL, rename)[1].fingerprint == imported(NON_CAUSAL)[1].fingerprint


@references
def test_shapes_come_from_tensors(name):
    """Without any size in the configuration, and with wrong ones."""
    decisive = ("causal", "window_size", "normalize_modulator", "max_distance", "hop_length")

    def without(config, weights):
        for key, settings in config.items():
            if key.endswith("_config"):
                config[key] = {k: v for k, v in settings.items() if k in decisive}
        config["compressor_config"]["hidden_dims"] = [7, 7, 7]
        config["decompressor_config"]["focal_window"] = 9

    assert imported(name, without)[1].fingerprint == imported(name)[1].fingerprint


def set_key(part, **values):
    return lambda config, weights: config[f"{part}_config"].update(values)


def set_name(part, value):
    return lambda config, weights: config.update({f"{part}_name": value})


def widen_decompressor(config, weights):
    """A decompressor of the widths (16, 16) in place of (12, 16)."""
    for name in [name for name in weights if name.startswith("decompressor.layers.1.")]:
        weights[name.replace("layers.1.", "layers.0.")] = weights[name]
    weights["decompressor.layers.0.upscale.upscale.weight"] = torch.ones(16, 16, 1)
    weights["decompressor.layers.0.upscale.upscale.bias"] = torch.ones(16)
    weights["decompressor.in_proj.weight"] = torch.ones(16, 9)
    weights["decompressor.in_proj.bias"] = torch.ones(16)


def resize(*sizes):
    """Replace tensors: pairs of a name and a shape."""

    def change(config, weights):
        weights.update({name: torch.ones(shape) for name, shape in sizes})

    return change


LAST = "decompressor.layers.1.focal_block.modulation.layers.2.0.weight"
REFUSED = {
    "unknown decoder": (NON_CAUSAL, set_name("decoder", "HiFiGAN"), "decoder_name is 'HiFiGAN'"),
    "unknown encoder": (NON_CAUSAL, set_name("encoder", "HuBERT"), "encoder_name is 'HuBERT'"),
    "unknown key": (CAUSAL, set_key("encoder", rotary=True), "encoder_config.rotary is no setting"),
    "text": (CAUSAL, set_key("encoder", window_size="16"), "encoder_config.window_size is '16'"),
    "window": (CAUSAL, set_key("encoder", window_size=18), "encoder_config.window_size 18"),
    "strides": (NON_CAUSAL, set_key("encoder", strides=[4] + [2] * 6), "encoder_config.kernel_s"),
    "post norm": (CAUSAL, set_key("compressor", use_post_norm=True), "compressor_config.use_post"),
    "causal Vocos": (NON_CAUSAL, set_key("decoder", causal=True), "decoder_config.causal is true"),
    "hop": (NON_CAUSAL, set_key("decoder", hop_length=160), "decoder_config.hop_length 160"),
    "bits": (CAUSAL, set_key("quantizer", codebook_size=1024), "quantizer_config.codebook_size 10"),
    "a list": (
        CAUSAL,
        lambda config, weights: config.update(quantizer_config=[1]),
        "quantizer_config is not a JSON object",
    ),
    "encoder not causal": (CAUSAL, set_key("encoder", causal=False), "compressor_config.causal"),
    "chunks": (CAUSAL, set_key("encoder", lookahead_size=1), "decompressor_config.lookahead_size"),
    "hidden sizes": (NON_CAUSAL, widen_decompressor, "decompressor_config.hidden_dims [16, 16]"),
    "last window": (CAUSAL, resize((LAST, (16, 1, 30))), "decompressor_config.last_window_size 30"),
    "factor of 4": (
        NON_CAUSAL,
        resize(
            ("compressor.layers.0.downscale.downscale.weight", (16, 24, 4)),
            ("decompressor.layers.1.upscale.upscale.weight", (16, 24, 4)),
        ),
        "compressor_config.downscale_factors [4, 1]",
    ),
    "causal with a factor": (
        CAUSAL,
        resize(
            ("compressor.layers.0.downscale.downscale.weight", (16, 24, 2)),
            ("decompressor.layers.1.upscale.upscale.weight", (16, 24, 2)),
        ),
        "compressor_config.downscale_factors are over 1 in a causal codec",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_held_is_refused_by_its_key(case):
    name, change, message = REFUSED[case]
    with pytest.raises(UsageError, match=re.escape(message)) as refusal:
        imported(name, change)
    text = str(refusal.value)
    assert "owner/codec" in text and "missing" not in text and "unknown" not in text


@references
def test_all_wrong_tensors_are_listed(name):
    def spoil(config, weights):
        removed = [n for n in weights if "layers.1" in n and "attention" in n]
        for tensor in removed:
            del weights[tensor]
        weights["encoder.adapter.weight"] = torch.ones(3)
        weights["decoder.head.proj.bias"] = torch.ones(7)
        weights["compressor.out_proj.bias"] = torch.ones(9, dtype=torch.int64)
        expected.extend(removed)

    expected: list[str] = ["tensors unknown: encoder.adapter.weight"]
    with pytest.raises(UsageError) as refusal:
        imported(name, spoil)
    expected += ["decoder.head.proj.bias [7], not [", "compressor.out_proj.bias of torch.int64"]
    assert len(expected) > 9 and not [text for text in expected if text not in str(refusal.value)]


def test_bits_in_another_order_are_refused():
    def reverse(config, weights):
        weights["quantizer.mask"] = weights["quantizer.mask"].flip(0)

    with pytest.raises(UsageError, match=r"quantizer\.mask"):
        imported(NUMBERED, reverse)


def test_nothing_given_is_changed():
    reference, weights = read_reference(NUMBERED)
    config, before = deepcopy(reference["config"]), deepcopy(weights)
    import_focalcodec(reference["config"], weights, "owner/codec")
    assert reference["config"] == config
    assert all(torch.equal(weights[name], before[name]) for name in before)
