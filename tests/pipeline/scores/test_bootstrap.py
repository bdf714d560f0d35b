"""Intervals: what they are of, how wide they are, and pairs of two runs."""

import numpy as np
import pytest

from pipeline.scores.bootstrap import (
    ScoreInterval,
    mean_interval,
    paired_difference,
    paired_ratio_difference,
    ratio_interval,
)


def test_a_mean_has_the_width_that_theory_gives():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_interval(values)
    error = values.std() / 20
    assert (found.value, found.count) == (pytest.approx(values.mean()), 400)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert mean_interval(values) == found != mean_interval(values, seed=1)


def test_an_error_rate_is_of_sums():
    """A long utterance weighs as much as it has words; draws are those of a plain loop."""
    errors, words = np.array([1, 0, 6, 2]), np.array([2, 10, 8, 20])
    found = ratio_interval(errors, words, resamples=300)
    assert found.value == pytest.approx(9 / 40)
    random = np.random.default_rng(0)
    drawn = [random.integers(4, size=4) for _ in range(300)]
    rates = [errors[each].sum() / words[each].sum() for each in drawn]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(rates, [2.5, 97.5])))


def test_many_utterances_are_drawn_in_blocks(monkeypatch):
    values = np.random.default_rng(1).normal(size=50)
    whole = mean_interval(values, resamples=200)
    monkeypatch.setattr("pipeline.scores.bootstrap.BLOCK", 50 * 7)
    assert mean_interval(values, resamples=200) == whole


def test_runs_are_compared_on_the_keys_they_share():
    """What both runs find hard cancels: the interval of the difference is narrow."""
    random = np.random.default_rng(2)
    hard = random.normal(0, 5, 100)
    first = {f"u{i}": value for i, value in enumerate(hard)}
    second = {f"u{i}": value + 0.5 + 0.1 * random.normal() for i, value in enumerate(hard)}
    first["only-first"], second["u0"] = 1000.0, None
    found = paired_difference(first, second)
    assert found.count == 99 and found.value == pytest.approx(0.5, abs=0.05)
    assert 0.4 < found.low < found.value < found.high < 0.6
    backwards = paired_difference(second, first)
    assert backwards.value == pytest.approx(-found.value)


def test_error_rates_of_two_runs():
    first = {f"u{i}": (i % 3, 10) for i in range(30)}
    second = {f"u{i}": (i % 3 + 1, 10) for i in range(30)} | {"u30": (10, 10)}
    found = paired_ratio_difference(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.count == 30


def test_too_few_have_no_interval():
    assert mean_interval([]) == ScoreInterval(None, None, None, count=0)
    assert mean_interval([2.0]) == ScoreInterval(2.0, None, None, count=1)
    assert ratio_interval([0, 0], [0, 0]) == ScoreInterval(None, None, None, count=2)
    assert paired_difference({"a": 1.0}, {"b": 1.0}).value is None
    assert paired_ratio_difference({"a": (0, 0)}, {"a": (0, 0)}).value is None


def test_the_record_of_a_score():
    record = ratio_interval([1, 1], [4, 4]).scaled(100).record("%", "jiwer 4.0.0")
    assert record == {
        "value": 25.0, "low": 25.0, "high": 25.0, "count": 2, "unit": "%", "model": "jiwer 4.0.0",
    }  # fmt: skip
