"""Ours in FocalCodec's layout, read back; test_import_focalcodec.py holds that to their code."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference.drawn import read_reference, speech

from tokenizer.config import MFCCConfig, VocoderConfig
from tokenizer.errors import UsageError
from tokenizer.published.export_focalcodec import export_focalcodec, left_out
from tokenizer.published.focalcodec import import_focalcodec
from tokenizer.published.their_config import DEFAULTS
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

torch.set_num_threads(1)
NON_CAUSAL, CAUSAL = "focalcodec_25hz", "focalcodec_causal"


def files_of(name: str) -> TokenizerFiles:
    reference, weights = read_reference(name)
    return import_focalcodec(reference["config"], weights, "owner/codec")


@pytest.mark.parametrize("name", [NON_CAUSAL, CAUSAL, "focalcodec_numbered"])
def test_import_export_import_is_bit_identical(name):
    files = files_of(name)
    config, weights = export_focalcodec(files)
    again = import_focalcodec(config, weights, "elsewhere")
    assert again.fingerprint == files.fingerprint
    assert (again.vocoder, again.compressor) == (files.vocoder, files.compressor)
    assert again.vocoder_weights.keys() == files.vocoder_weights.keys()
    for part, found in again.vocoder_weights.items():
        assert torch.equal(found, files.vocoder_weights[part])
    for part in ("encoder", "compressor", "quantizer", "decompressor", "decoder"):
        assert config[f"{part}_config"].keys() == DEFAULTS[config[f"{part}_name"]].keys()
    if name != "focalcodec_numbered":  # whose factors are folded
        _, theirs = read_reference(name)
        assert weights.keys() == theirs.keys()
        assert all(torch.equal(weights[part], theirs[part]) for part in theirs)
    assert left_out(files) == []


def standardised(files: TokenizerFiles, gain: float) -> TokenizerFiles:
    """The same codec with a mean, a scale and a gain, as training here makes them."""
    width, generator = files.width, torch.Generator().manual_seed(0)
    weights = dict(files.weights)
    weights["features.mean"] = torch.randn(width, generator=generator)
    weights["features.scale"] = torch.tensor(1.7)
    if files.encoder.causal:
        files = replace(files, encoder=replace(files.encoder, gain=gain))
    return replace(files, weights=weights)


@pytest.mark.parametrize("samples", [17_840, 18_000, 18_320])
@pytest.mark.parametrize("name", [NON_CAUSAL, CAUSAL, "focalcodec_numbered"])
def test_mean_scale_and_gain_are_folded(name, samples):
    """Up to a last token of one frame and a last chunk of one, which are padded with zeros."""
    ours = standardised(files_of(name), gain=20.0)
    config, weights = export_focalcodec(ours)
    theirs = import_focalcodec(config, weights, "exported")
    assert theirs.weights["features.scale"] == 1 and not theirs.weights["features.mean"].any()
    here, there, wave = Tokenizer(ours), Tokenizer(theirs), speech(samples)
    tokens = here.encode(wave)
    assert len(set(tokens)) > 10
    np.testing.assert_array_equal(there.encode(wave), tokens)
    (wanted,), (found,) = here.decode_features([tokens]), there.decode_features([tokens])
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    np.testing.assert_allclose(there.decode(tokens), here.decode(tokens), atol=1e-4)
    notes = left_out(ours)
    assert len(notes) == (name == NON_CAUSAL) and all("mean" in note for note in notes)


def test_a_vocoder_with_margins_and_limiter_is_exported_without():
    files = files_of(NON_CAUSAL)
    ours = replace(files, vocoder=replace(files.vocoder, margin=40, limiter=True))
    theirs = import_focalcodec(*export_focalcodec(ours), "exported")
    tokens = np.arange(40) * 11
    wanted, found = Tokenizer(ours).decode(tokens), Tokenizer(theirs).decode(tokens)
    assert np.abs(wanted).max() < 0.8
    np.testing.assert_allclose(found, wanted[40:-40], atol=1e-6)
    assert len(left_out(ours)) == 2 and "first and the last 40 samples" in left_out(ours)[0]


def encoder(**values):
    return lambda files: replace(files, encoder=replace(files.encoder, **values))


def compressor(**values):
    return lambda files: replace(files, compressor=replace(files.compressor, **values))


def weight(name, value):
    return lambda files: replace(files, weights=files.weights | {name: value})


REFUSED = {
    "mfcc": (CAUSAL, lambda f: replace(f, encoder=MFCCConfig()), "encoder.model_type"),
    "normalised": (NON_CAUSAL, encoder(normalize=True), "encoder.normalize"),
    "group norm": (NON_CAUSAL, encoder(feat_extract_norm="group"), "encoder.feat_extract_norm"),
    "post norm": (NON_CAUSAL, encoder(do_stable_layer_norm=False), "encoder.do_stable_layer_norm"),
    "conv bias": (NON_CAUSAL, encoder(conv_bias=True), "encoder.conv_bias"),
    "eps": (NON_CAUSAL, encoder(layer_norm_eps=1e-6), "encoder.layer_norm_eps"),
    "no position bias": (NON_CAUSAL, encoder(position_bias=False), "encoder.position_bias"),
    "no norm": (NON_CAUSAL, encoder(feat_proj_layer_norm=False), "encoder.feat_proj_layer_norm"),
    "no layer": (NON_CAUSAL, encoder(layer=0), "encoder.layer"),
    "padding": (CAUSAL, encoder(replicate_padding=False), "encoder.replicate_padding"),
    "k-means": (CAUSAL, lambda files: replace(files, compressor=None), "compressor: there is none"),
    "chunks": (CAUSAL, compressor(chunk_frames=8), "compressor.chunk_frames"),
    "factor of 4": (NON_CAUSAL, compressor(factors=(4, 1)), "compressor.factors: over 2"),
    "causal factor": (CAUSAL, compressor(factors=(2, 1)), "compressor.factors: over 1"),
    "half causal": (NON_CAUSAL, compressor(causal=True), "compressor.causal"),
    "learned": (NON_CAUSAL, weight("codebook.codes", torch.randn(512, 9)), "codebook.codes"),
    "centred": (NON_CAUSAL, weight("center", torch.zeros(24)), "center"),
    "projected": (
        NON_CAUSAL,
        weight("codebook.projection", torch.zeros(4, 9)),
        "codebook.projection",
    ),
    "no vocoder": (CAUSAL, lambda files: replace(files, vocoder=None), "vocoder: there is none"),
    "causal Vocos": (
        NON_CAUSAL,
        lambda files: replace(files, vocoder=VocoderConfig(width=24, causal=True)),
        "vocoder.causal",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_theirs_cannot_hold_is_refused_by_name(case):
    name, change, message = REFUSED[case]
    with pytest.raises(UsageError, match=re.escape(message)):
        export_focalcodec(change(files_of(name)))


def test_all_reasons_are_listed():
    files = encoder(normalize=True, conv_bias=True)(files_of(NON_CAUSAL))
    files = replace(files, vocoder=None)
    with pytest.raises(UsageError, match=r"encoder\.normalize.*encoder\.conv_bias.*vocoder") as why:
        export_focalcodec(files)
    assert "\n" not in str(why.value)
