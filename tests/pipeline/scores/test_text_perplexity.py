"""Perplexity of transcripts: beside direct calls of transformers, text by text."""

import math
from pathlib import Path

import pytest
import torch
from text_models import save_text_lm
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from pipeline.scores.text_perplexity import TextPerplexity
from tokenizer.errors import UsageError

TEXTS = [" The grey heron waited.", "THE grey heron waited by the mill until noon.", "", "a", "  "]


def direct_nats(folder: Path, ids: list[int]) -> float:
    """Mean nats of all ids but the first, as transformers computes a loss."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.tensor([ids])
    with torch.no_grad():
        return float(model(input_ids=tokens, labels=tokens).loss)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_text_lm(tmp_path_factory.mktemp("gpt2"))


def test_both_definitions_are_the_direct_loss(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scores = TextPerplexity(str(folder)).score(TEXTS)
    for text, score in zip(TEXTS, scores):
        ids = tokenizer(text.strip().lower(), add_special_tokens=False)["input_ids"]
        if not ids:
            assert score.gslm is None and score.slamkit is None
            continue
        # GSLM: behind the start of a sentence, all tokens, in lower case.
        direct = direct_nats(folder, [tokenizer.bos_token_id, *ids])
        assert score.gslm.tokens == len(ids)
        assert score.gslm.per_token == pytest.approx(direct, rel=1e-5)
        assert score.gslm.perplexity == pytest.approx(math.exp(direct), rel=1e-4)
        # SlamKit: as it is, from the second token on.
        ids = tokenizer(text)["input_ids"]
        if len(ids) < 2:
            assert score.slamkit is None
            continue
        assert score.slamkit.tokens == len(ids) - 1
        assert score.slamkit.per_token == pytest.approx(direct_nats(folder, ids), rel=1e-5)
    assert scores[0].gslm.tokens > 1
    # Not a matter of what else is in the batch.
    alone = TextPerplexity(str(folder)).score(TEXTS[:1])[0]
    assert alone.gslm.nats == pytest.approx(scores[0].gslm.nats, rel=1e-6)
    (score,) = TextPerplexity(str(folder)).score(["a b " * 300])
    assert score.too_long and score.gslm is None


def test_what_is_no_causal_language_model_is_refused(folder, tmp_path):
    bert = BertForMaskedLM(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=16)
    )  # fmt: skip
    bert.save_pretrained(tmp_path / "bert")
    for name in ("bare", "cut", "small"):
        (tmp_path / name).mkdir()
    for file in folder.iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / "bare" / file.name).write_bytes(file.read_bytes())
        content = b"" if file.suffix == ".safetensors" else file.read_bytes()
        (tmp_path / "cut" / file.name).write_bytes(content)
    save_text_lm(tmp_path / "small", vocabulary=20)
    for name, said in (
        ("bert", "it is a BertForMaskedLM, and a causal language model"),
        ("bare", "its tokenizer knows no words"),
        ("cut", "does not load as a GPT2LMHeadModel"),
        ("small", "its model knows 20"),
        ("nothing", "no such folder"),
    ):
        with pytest.raises(UsageError, match=said):
            TextPerplexity(str(tmp_path / name))
