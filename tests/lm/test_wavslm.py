"""WavSLM checkpoints: their code's logits and tokens, the way back, and what does not fit.

What their code gives is in tests/reference, made by make_wavslm.py there.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lm_models import causal_files, shaken, small_config
from reference.drawn import REFERENCE, read_reference

from lm.config import LMError
from lm.generation import Generator, Sampling
from lm.inference import PackedLM
from lm.model import SpeechLM
from lm.wavslm import export_wavslm, import_wavslm
from tokenizer.published.focalcodec import import_focalcodec

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def codec():
    reference, weights = read_reference("focalcodec_causal")
    return import_focalcodec(reference["config"], weights, "a test")


@pytest.fixture(scope="module")
def checkpoint():
    reference, weights = read_reference("wavslm")
    return reference["config"], weights


@pytest.fixture(scope="module")
def model(checkpoint, codec):
    return import_wavslm(*checkpoint, codec, "a test")


@pytest.fixture(scope="module")
def theirs():
    return dict(np.load(REFERENCE / "wavslm.npz"))


def test_one_pass_gives_their_logits(model, theirs):
    tokens = torch.from_numpy(theirs["tokens"].astype(np.int64))[None]
    with torch.no_grad():
        logits = model(tokens, torch.zeros_like(tokens, dtype=torch.int32))[0]
    wanted = torch.from_numpy(theirs["logits"])
    error = (logits[theirs["positions"]] - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert error.max() < 1e-5


def test_the_cache_gives_their_logits(model, theirs):
    """A prompt in blocks, and chunk by chunk after the first: both pass the window."""
    tokens = torch.from_numpy(theirs["tokens"].astype(np.int64))
    wanted = torch.from_numpy(theirs["logits"])[-1]
    lm = PackedLM(model)
    whole, _ = lm.begin([tokens])
    logits, state = lm.begin([tokens[:4]])
    for chunk in tokens[4:].split(4):
        logits = lm.step(chunk[None], state)
    for last in (whole[0, -1], logits[0, -1]):
        assert (last - wanted).norm() / wanted.norm() < 1e-5


@pytest.mark.parametrize("count", [4, 24, 28, 120])
def test_greedy_generation_gives_their_tokens(model, theirs, count):
    """For prompts of one chunk, of a window and of five."""
    wanted = theirs[f"after_{count}"]
    assert len(set(wanted.tolist())) > 15
    (tokens,) = Generator(model).generate(
        [theirs["tokens"][:count]], len(wanted), [0], sampling=Sampling(temperature=0)
    )
    np.testing.assert_array_equal(tokens, wanted)


def test_export_is_what_was_imported(model, checkpoint, codec):
    config, weights = checkpoint
    exported, exported_weights = export_wavslm(model, "someone/tiny_codec")
    assert {key: exported[key] for key in config} == config
    assert exported["causal"] is True and exported["max_cached_steps"] >= config["window_size"]
    assert exported_weights.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(exported_weights[name], weight), name
    again = import_wavslm(exported, exported_weights, codec, "a test")
    assert again.config == model.config
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_what_a_config_lacks_is_in_the_shapes(model, checkpoint, codec):
    config, weights = checkpoint
    kept = {key: config[key] for key in ("window_size", "max_distance")}
    assert import_wavslm(kept, weights, codec, "a test").config == model.config


def test_an_error_lists_all_tensors(checkpoint, codec):
    config, weights = checkpoint
    wrong = {k: v for k, v in weights.items() if "layers.1.attention.out_proj" not in k}
    wrong |= {"head.bias": torch.zeros(512), "encoder.norm.weight": torch.ones(25)}
    with pytest.raises(LMError) as error:
        import_wavslm(config, wrong, codec, "somewhere")
    for part in (
        "somewhere",
        "encoder.layers.1.attention.out_proj.weight is missing",
        "encoder.layers.1.attention.out_proj.bias is missing",
        "head.bias is none of a WavSLM's",
        "encoder.norm.weight is (25,), not (24,)",
    ):
        assert part in str(error.value)


WRONG_KEYS = {
    "causal": ({"causal": False}, "causal is not true"),
    "unknown": ({"rope_theta": 1e4}, "rope_theta"),
    "two": ({"num_heads": "4", "lookahead_size": None}, ("num_heads", "lookahead_size")),
    "lookahead": ({"lookahead_size": 7}, "toks_per_step is 4, not one more than lookahead_size 7"),
    "window": ({"window_size": 4}, "window_size is 4"),
    "more-layers": ({"num_layers": 4}, "encoder.layers.3.attention.qkv_proj.weight is missing"),
    "endless-layers": ({"num_layers": 10**9}, "num_layers is 1000000000"),
    "heads": ({"num_heads": 5}, "5 heads"),
    "width": ({"dim": 32}, "head.weight is (512, 24), not (512, 32)"),
}


@pytest.mark.parametrize("changes, parts", WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_a_config_that_does_not_fit(checkpoint, codec, changes, parts):
    config, weights = checkpoint
    with pytest.raises(LMError) as error:
        import_wavslm(config | changes, weights, codec, "somewhere")
    for part in (parts,) if isinstance(parts, str) else parts:
        assert part in str(error.value)


def test_another_codec(checkpoint, codec, tmp_path):
    other = causal_files(tmp_path, factors=(2, 1))
    plain = replace(codec, compressor=None)
    for files, parts in (
        (other, ("32 codes", "2 frames", "64 dimensions")),
        (plain, ("no causal decompressor",)),
    ):
        with pytest.raises(LMError) as error:
            import_wavslm(*checkpoint, files, "a test")
        assert error.value.argument == "tokenizer"
        assert all(part in str(error.value) for part in parts)


def test_what_their_layout_cannot_hold(tmp_path):
    files = causal_files(tmp_path)
    narrow = SpeechLM.from_tokenizer(
        small_config(inputs="decompressor", width=32, layer_norm_eps=1e-6), files
    )
    with pytest.raises(LMError) as error:
        export_wavslm(narrow, "")
    for part in ("START", "layer_norm_eps", "in_proj", "standardised", "without its tokenizer"):
        assert part in str(error.value)
    for inputs in ("codes", "embedding"):
        model = SpeechLM.from_tokenizer(small_config(inputs=inputs, start=False), files)
        with pytest.raises(LMError, match=f"inputs are '{inputs}'"):
            export_wavslm(model, "")
    coarse = causal_files(tmp_path / "coarse", factors=(2, 1))
    model = SpeechLM.from_tokenizer(small_config(inputs="decompressor", start=False), coarse)
    model.tokenizer_files = files
    with pytest.raises(LMError, match=r"2 frames.*its decompressor is not its tokenizer's"):
        export_wavslm(model, "")


def test_a_model_of_ours_without_start(tmp_path):
    """What is exported of it gives the same model again."""
    files = causal_files(tmp_path)
    config = small_config(inputs="decompressor", start=False)
    model = shaken(SpeechLM.from_tokenizer(config, files))
    model.tokenizer_files = files
    values, weights = export_wavslm(model, "x/y")
    assert (values["window_size"], values["lookahead_size"]) == (config.window + 4, 3)
    again = import_wavslm(values, weights, files, "a test")
    assert again.config == model.config
    tokens = torch.arange(24)[None]
    utterance = torch.zeros_like(tokens, dtype=torch.int32)
    assert torch.equal(again(tokens, utterance), model(tokens, utterance))
