"""What a report says of a language model: bits by position, the log beside it, figures' files."""

import json
import math

import numpy as np
import pytest
from lm_models import CODES, small_lm

from lm.evaluation.figure_files import read_figures
from lm.evaluation.learning import bits_by_position, read_log
from lm.evaluation.scoring import bits_per_token, utterance_scores
from tokenizer.errors import UsageError


@pytest.mark.parametrize("start", [True, False])
def test_bits_by_position_are_those_of_the_scores(start):
    """Utterances of one length: the mean over positions is the mean over tokens."""
    model = small_lm(start=start)
    utterances = list(np.random.default_rng(0).integers(0, CODES, (6, 40)))
    found = bits_by_position(model, utterances)
    mean = bits_per_token(utterance_scores(model, utterances))
    assert np.mean(found.bits) == pytest.approx(mean, rel=1e-5)
    assert np.mean(found.in_chunk) == pytest.approx(mean, rel=1e-5)
    assert len(found.in_chunk) == model.config.chunk
    # The middle of each chunk of 4 tokens of 20 ms; without START the first is not predicted.
    assert found.seconds == pytest.approx(0.04 + 0.08 * np.arange(0 if start else 1, 10))


def test_a_position_of_few_utterances_is_left_out():
    model, random = small_lm(), np.random.default_rng(0)
    utterances = [random.integers(0, CODES, 20) for _ in range(8)]
    utterances.append(random.integers(0, CODES, 400))
    found = bits_by_position(model, utterances)
    assert len(found.bits) == 5 and found.utterances == 9
    assert all(map(math.isfinite, found.bits))


def test_a_damaged_log_is_refused(tmp_path):
    (tmp_path / "training").mkdir()
    log = tmp_path / "training/log.jsonl"
    assert read_log(str(tmp_path / "model")) == read_log(str(tmp_path / "other")) == []
    log.write_text('{"step": 1, "bits_per_token": 3.5}\n')
    assert read_log(f"{tmp_path}/model/")[0]["bits_per_token"] == 3.5
    log.write_text('{"step": 1}\n{"st')
    with pytest.raises(UsageError, match=r"log\.jsonl beside it is damaged"):
        read_log(str(tmp_path / "model"))


def test_pairs_of_another_form_are_refused(tmp_path):
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"pairs": {"salmon": {"rir_consistency": {"accuracy": 0.7}}}}))
    with pytest.raises(UsageError, match="its pairs have an unknown form"):
        read_figures([str(file)]).tasks()
