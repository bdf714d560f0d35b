"""Recognisers: the words are those of direct calls of transformers; errors are jiwer's."""

import json
import shutil

import jiwer
import numpy as np
import pytest
import torch
from transformers import (
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from pipeline.scores import word_errors
from pipeline.scores.recognition import Recognizer
from tokenizer.errors import UsageError

pytest_plugins = ("small_models",)
ENGLISH = {"language": "en", "task": "transcribe"}


@torch.inference_mode()
def test_whisper_writes_what_transformers_does(models, waves):
    found = Recognizer(str(models / "whisper"), batch_size=3)
    texts = found.texts(waves[:5])
    processor = WhisperProcessor.from_pretrained(models / "whisper")
    model = WhisperForConditionalGeneration.from_pretrained(models / "whisper")
    for wave, text in zip(waves, texts, strict=False):
        heard = processor(wave, sampling_rate=16_000, return_tensors="pt")
        tokens = model.generate(heard.input_features, do_sample=False, **ENGLISH)
        assert text == processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert all(texts) and "WhisperForConditionalGeneration" in found.name
    assert found.texts([np.zeros(100, np.float32)]) == [""]


@torch.inference_mode()
def test_whisper_hears_what_comes_after_30_seconds(models, waves):
    """In a batch with a short utterance, and as transformers' own long form does."""
    found = Recognizer(str(models / "whisper"))
    long = np.concatenate(waves * 3)[: 16_000 * 41]
    text, short = found.texts([long, waves[0]])
    assert short == found.texts(waves[:1])[0]
    processor = WhisperProcessor.from_pretrained(models / "whisper")
    model = WhisperForConditionalGeneration.from_pretrained(models / "whisper")
    heard = processor(
        long, sampling_rate=16_000, return_tensors="pt",
        truncation=False, padding="longest", return_attention_mask=True,
    )  # fmt: skip
    assert heard.input_features.shape[-1] == 4100
    tokens = model.generate(**heard, do_sample=False, return_timestamps=True, **ENGLISH)
    assert text == processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()


@torch.inference_mode()
def test_ctc_writes_what_transformers_does(models, waves):
    """Batches with padding say what each utterance alone does."""
    texts = Recognizer(str(models / "ctc"), batch_size=4).texts(waves)
    processor = Wav2Vec2Processor.from_pretrained(models / "ctc")
    model = Wav2Vec2ForCTC.from_pretrained(models / "ctc")
    for wave, text in zip(waves, texts, strict=True):
        heard = processor(wave, sampling_rate=16_000, return_tensors="pt")
        likeliest = model(heard.input_values).logits.argmax(-1)
        assert text == processor.batch_decode(likeliest)[0].strip()
    assert len(set(texts)) > 3


@torch.inference_mode()
def test_ctc_hears_a_minute_in_windows(models, waves):
    """Nearly the text of one pass: what differs is that attention ends at a window's edge."""
    long = np.concatenate(waves * 3)[: 16_000 * 61]
    (text,) = Recognizer(str(models / "ctc")).texts([long])
    processor = Wav2Vec2Processor.from_pretrained(models / "ctc")
    model = Wav2Vec2ForCTC.from_pretrained(models / "ctc")
    heard = processor(long, sampling_rate=16_000, return_tensors="pt")
    whole = processor.batch_decode(model(heard.input_values).logits.argmax(-1))[0]
    assert word_errors.character_errors(whole, text).errors < 0.1 * len(whole)


def test_texts_are_normalised_as_whisper_does(models):
    table = json.loads((models / "whisper/normalizer.json").read_text())
    own = word_errors.text_normalizer("en", models / "whisper")
    said = "Mr. Brown's colour, um, won't cost $2 and a half!"
    assert own(said) == EnglishTextNormalizer(table)(said) and "color" in own(said)
    assert "of the recogniser" in own.name
    package = word_errors.text_normalizer("en", models / "ctc")
    assert package("the grey harbour") == "the gray harbor"
    assert "whisper-normalizer" in package.name
    german = word_errors.text_normalizer("de")
    assert german("Straße, ja!") == "strasse ja" or german("Straße, ja!") == "straße ja"


def test_spellings_that_are_nowhere_are_said(monkeypatch):
    monkeypatch.setattr(word_errors, "find_spec", lambda name: None)
    plain = word_errors.text_normalizer("en")
    assert plain("The grey Harbour.") == "the grey harbour" and "as they are" in plain.name


def test_pocketsphinx_hears_what_is_said(waves):
    """The same words whatever it heard before; next to none in silence."""
    found = Recognizer("pocketsphinx")
    texts = found.texts([*waves, np.zeros(16_000, np.float32), np.zeros(300, np.float32)])
    assert texts[: len(waves)] == [Recognizer("pocketsphinx").texts([wave])[0] for wave in waves]
    assert sum(len(text.split()) for text in texts[: len(waves)]) > 2 * len(waves)
    assert len(texts[-2].split()) < 3 and texts[-1] == ""
    assert found.name.startswith("pocketsphinx 5")
    assert "English" in found.normalize.name


def test_errors_are_those_of_jiwer():
    """Summed over utterances they give jiwer's rate of all; nothing said counts insertions."""
    said = ["the heron waited by the mill", "until noon", "and then"]
    heard = ["the herring waited by a the mill", "until", "and then"]
    counts = [word_errors.word_errors(*pair) for pair in zip(said, heard, strict=True)]
    errors, words = map(sum, zip(*counts, strict=True))
    assert errors / words == pytest.approx(jiwer.wer(said, heard))
    counts = [word_errors.character_errors(*pair) for pair in zip(said, heard, strict=True)]
    errors, characters = map(sum, zip(*counts, strict=True))
    assert errors / characters == pytest.approx(jiwer.cer(said, heard))
    assert word_errors.word_errors("", "two words") == (2, 0)
    assert word_errors.word_errors("two words", "") == (2, 2)
    assert word_errors.character_errors("", "") == (0, 0)


def refused(source, said, **options):
    with pytest.raises(UsageError) as error:
        Recognizer(str(source), **options)
    assert said in str(error.value), error.value


def test_what_is_no_recogniser_is_refused_by_name(models, tmp_path):
    refused(tmp_path / "nothing", "no such folder")
    refused("whisper-smal", "no such folder")
    refused(models / "x-vector", "it is a WavLMForXVector, and a speech recogniser is one of")
    refused(tmp_path, "config.json cannot be read")
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    refused(tmp_path, "names no class")
    refused(models / "whisper", "give one of de, en", language="fr")
    refused("pocketsphinx", "knows English alone", language="fr")
    shutil.copytree(models / "ctc", tmp_path / "headless")
    config = json.loads((models / "ctc/config.json").read_text())
    wider = {**config, "vocab_size": config["vocab_size"] + 1}
    (tmp_path / "headless/config.json").write_text(json.dumps(wider))
    refused(tmp_path / "headless", "does not load as a Wav2Vec2ForCTC")
    shutil.copytree(models / "ctc", tmp_path / "no-tokenizer")
    for name in ("vocab.json", "tokenizer_config.json"):
        (tmp_path / "no-tokenizer" / name).unlink()
    refused(tmp_path / "no-tokenizer", "its tokenizer does not load")
