"""The language model's Python API: `from lm import SpeechLM, Generator`."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from lm_models import causal_files, row_of, shaken, small_config, speech

import lm
from lm import Generator, SpeechLM
from lm.config import LMError
from lm.files import save_lm
from tokenizer.errors import UsageError
from tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder of a model with a tokenizer, of one without, the first one's model)."""
    folder = tmp_path_factory.mktemp("lm")
    files = causal_files(folder / "wavlm")
    torch.manual_seed(0)
    model = shaken(SpeechLM.from_tokenizer(small_config(), files))
    save_lm(folder / "with", model, tokenizer=files, made_by={})
    alone = shaken(SpeechLM(small_config(inputs="embedding")))
    save_lm(folder / "without", alone, tokenizer=None, made_by={})
    return folder / "with", folder / "without", model


def test_import_is_light():
    code = "import sys, lm; print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert set(lm.__all__) == {"Generator", "SpeechLM"}
    with pytest.raises(AttributeError, match="Speech"):
        lm.Speech  # noqa: B018


def test_a_folder_and_a_url_give_the_same_logits(saved):
    folder, _, model = saved
    tokens, utterance = row_of([speech(37, seed=1), speech(20, seed=2)], 4, 80)
    with torch.no_grad():
        expected = model(tokens, utterance)
        for place in (folder, str(folder), f"file://{folder}"):
            loaded = SpeechLM.from_pretrained(place)
            assert not loaded.training and loaded.config == model.config
            assert torch.equal(loaded(tokens, utterance), expected)
        half = SpeechLM.from_pretrained(folder, precision="bf16")
        logits = half(tokens, utterance)
    assert logits.dtype == torch.bfloat16 and logits.shape == expected.shape
    assert (logits.float() - expected).square().mean() < 1e-3 * expected.var()


def test_the_tokenizer_is_built_when_it_is_used(saved, monkeypatch):
    built = []
    init = Tokenizer.__init__

    def counted(self, *args, **kwargs):
        built.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(Tokenizer, "__init__", counted)
    model = SpeechLM.from_pretrained(saved[0])
    assert not built
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, Tokenizer) and model.tokenizer is tokenizer and len(built) == 1
    tokens = tokenizer.encode(np.random.default_rng(0).standard_normal(8000) * 0.05)
    expected = Tokenizer(model.tokenizer_files).encode(
        np.random.default_rng(0).standard_normal(8000) * 0.05
    )
    assert np.array_equal(tokens, expected)
    (continued,) = Generator(model).generate([tokens], count=9, seeds=[0])
    assert len(continued) == 9


def test_without_a_tokenizer_it_is_none(saved):
    assert SpeechLM.from_pretrained(saved[1]).tokenizer is None
    assert SpeechLM(small_config()).tokenizer is None


def test_a_wrong_call_says_what_is_wrong(saved, tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        SpeechLM.from_pretrained(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        LMError, match=r"empty: it has no readable config\.json; give the folder of"
    ):
        SpeechLM.from_pretrained(tmp_path / "empty")
    with pytest.raises(LMError, match=r"precision fp8: unknown precision; give one of fp32, bf16"):
        SpeechLM.from_pretrained(saved[0], precision="fp8")
    model = SpeechLM.from_pretrained(saved[1])
    tokens, utterance = row_of([speech(37, seed=1)], 4, 80)
    with pytest.raises(ValueError, match=r"\(80,\) and utterance \(1, 80\)"):
        model(tokens[0], utterance)
    with pytest.raises(ValueError, match="no whole chunks of 4"):
        model(tokens[:, :79], utterance[:, :79])
