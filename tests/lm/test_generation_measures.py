"""What continuations are measured by: counted by hand here, n-gram by n-gram."""

import math
from collections import Counter

import numpy as np
import pytest

from lm.evaluation.generation_measures import (
    auto_bleu,
    loudest_frame,
    repeated_ngrams,
    same_as_before,
    self_bleu,
    silence,
    vert,
)

RATE = 16_000


def grams(sequence: np.ndarray, size: int) -> list[tuple[int, ...]]:
    words = sequence.tolist()
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def counted_auto_bleu(sequence: np.ndarray, size: int) -> float:
    """The formula: the share of places whose n-gram is among those of the other places."""
    product = 1.0
    for k in range(1, size + 1):
        all_of = grams(sequence, k)
        again = [gram in all_of[:i] + all_of[i + 1 :] for i, gram in enumerate(all_of)]
        product *= sum(again) / len(again)
    return product ** (1 / size)


def counted_self_bleu(sequences: list[np.ndarray], which: int, size: int) -> float:
    """BLEU's modified precision, clipped by the one reference that has an n-gram most often."""
    product = 1.0
    for k in range(1, size + 1):
        own = Counter(grams(sequences[which], k))
        others = [Counter(grams(s, k)) for i, s in enumerate(sequences) if i != which]
        matched = sum(min(n, max(other[gram] for other in others)) for gram, n in own.items())
        product *= matched / max(1, sum(own.values()))
    return product ** (1 / size)


def test_bleu_is_what_counting_gives():
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 6, length) for length in (40, 3, 25, 1, 60, 0, 2, 33)]
    sequences[2] = np.repeat(sequences[2], 3)  # runs, as of silence
    sequences.append(np.array([100_000, 100_001, 100_000, 100_001]))  # shares nothing
    for size in (2, 3):
        made = self_bleu(sequences, size)
        for i, sequence in enumerate(sequences):
            assert made[i] == pytest.approx(counted_self_bleu(sequences, i, size), abs=1e-12)
            wanted = counted_auto_bleu(sequence, size) if len(sequence) >= size else 0.0
            assert auto_bleu(sequence, size) == pytest.approx(wanted, abs=1e-12)
    assert made[-1] == 0 and 0 < made[0] <= 1
    # By hand: all four words come twice; of the bigrams ab, ba, ab only ab does.
    assert auto_bleu(sequences[-1]) == pytest.approx(math.sqrt(1 * 2 / 3))
    # The same sentence twice is all in its other copy; alone there is no reference.
    assert self_bleu([sequences[0], sequences[0]]).tolist() == [1.0, 1.0]
    assert self_bleu([sequences[0]]).tolist() == [0.0]
    assert self_bleu([]).shape == (0,)
    assert vert(np.array([0.2, 0.6]), np.array([0.1, 0.1])) == pytest.approx(0.2)


def test_repeats_are_shares_of_what_came_before():
    tokens = np.array([5, 5, 5, 1, 2, 3, 4, 1, 2, 3, 4], np.uint16)
    assert same_as_before(tokens) == 2 / 10
    # Of eight 4-grams the last, 1 2 3 4, was there before.
    assert repeated_ngrams(tokens) == 1 / 8
    assert same_as_before(tokens[:1]) is None and repeated_ngrams(tokens[:3]) is None


def test_silence_is_what_stays_far_below_the_loudest_frame():
    times = np.arange(RATE) / RATE
    tone = (0.2 * np.sin(2 * np.pi * 200 * times)).astype(np.float32)
    hum = tone / 30  # 29.5 dB below
    loudest = loudest_frame(tone, RATE)
    assert loudest == pytest.approx(0.02, rel=1e-3)
    wave = np.concatenate(
        [tone, hum[: RATE // 2], tone, hum[: RATE // 20], hum[:0], tone[: RATE // 4]]
    )
    # Half a second is a pause; 50 ms are none.
    share, longest = silence(wave, RATE, loudest)
    assert share == pytest.approx(0.5 / 2.8, abs=1e-6)
    assert longest == pytest.approx(0.5)
    # Beside louder speech all of it is silent; digital silence is, beside anything.
    assert silence(hum, RATE, loudest) == (1.0, 1.0)
    assert silence(np.zeros(RATE, np.float32), RATE, 0.0) == (1.0, 1.0)
    assert silence(tone, RATE, loudest) == (0.0, 0.0)
    assert silence(tone[:100], RATE, loudest) == (1.0, 100 / RATE)
