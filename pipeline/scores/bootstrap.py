"""95 % intervals by the bootstrap over utterances (Efron, 1979; Bisani and Ney, 2004, for WER).

Utterances are drawn with replacement, as many as there are, and the score is taken of each draw;
the interval holds the middle 95 % of these. Draws are seeded: the same values give the same
interval. Of fewer than two utterances there is no interval.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SEED = 0
PERCENTILES = (2.5, 97.5)
# Draws are made in blocks of about this many utterances: 32 MB of indices.
BLOCK = 1 << 22


@dataclass(frozen=True)
class ScoreInterval:
    """A score over utterances. value, low, high: None where undefined. count: of utterances."""

    value: float | None
    low: float | None
    high: float | None
    count: int

    def scaled(self, factor: float) -> "ScoreInterval":
        """The same in another unit; factor: over zero, such as 100 for percent."""
        value, low, high = (None if part is None else part * factor for part in self._parts())
        return ScoreInterval(value, low, high, count=self.count)

    def record(self, unit: str, model: str) -> dict[str, float | int | str | None]:
        """As files of figures have it. model: the name and version of what took the score."""
        value, low, high = self._parts()
        return {
            "value": value,
            "low": low,
            "high": high,
            "count": self.count,
            "unit": unit,
            "model": model,
        }

    def _parts(self) -> tuple[float | None, float | None, float | None]:
        return self.value, self.low, self.high


def mean_interval(
    values: Sequence[float] | np.ndarray, *, seed: int = SEED, resamples: int = RESAMPLES
) -> ScoreInterval:
    """The mean of (n,) values, one an utterance."""
    given = np.asarray(values, np.float64)
    if not len(given):
        return ScoreInterval(None, None, None, count=0)

    def mean(drawn: np.ndarray) -> np.ndarray:
        return given[drawn].mean(1)

    return _interval(float(given.mean()), mean, count=len(given), seed=seed, resamples=resamples)


def ratio_interval(
    parts: Sequence[float] | np.ndarray,
    wholes: Sequence[float] | np.ndarray,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> ScoreInterval:
    """The sum of (n,) parts over the sum of (n,) wholes, such as word errors over words."""
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    if not whole.sum() > 0:
        return ScoreInterval(None, None, None, count=len(whole))

    def ratio(drawn: np.ndarray) -> np.ndarray:
        return divided(part[drawn].sum(1), whole[drawn].sum(1))

    value = float(part.sum() / whole.sum())
    return _interval(value, ratio, count=len(part), seed=seed, resamples=resamples)


def geometric_mean_interval(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> ScoreInterval:
    """The geometric mean of the mean of (n,) values and that of (n,) others, such as VERT."""
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if not len(one):
        return ScoreInterval(None, None, None, count=0)

    def mean(drawn: np.ndarray) -> np.ndarray:
        return np.sqrt(one[drawn].mean(1) * other[drawn].mean(1))

    value = float(mean(np.arange(len(one))[None])[0])
    return _interval(value, mean, count=len(one), seed=seed, resamples=resamples)


def paired_difference(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> ScoreInterval:
    """The mean of second minus first, over the utterances that have a value in both runs.

    first, second: {key of the utterance: value}.
    """
    keys = _shared(first, second)
    differences = [float(second[key]) - float(first[key]) for key in keys]  # type: ignore[arg-type]
    return mean_interval(differences, seed=seed, resamples=resamples)


def paired_ratio_difference(
    first: Mapping[str, tuple[float, float] | None],
    second: Mapping[str, tuple[float, float] | None],
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> ScoreInterval:
    """The ratio of sums in the second run minus that in the first, over utterances of both.

    first, second: {key of the utterance: (part, whole)}. Both ratios are of the same draws.
    """
    keys = _shared(first, second)
    if not keys:
        return ScoreInterval(None, None, None, count=0)
    before, after = (np.array([run[key] for key in keys], np.float64) for run in (first, second))
    if not (before[:, 1].sum() > 0 and after[:, 1].sum() > 0):
        return ScoreInterval(None, None, None, count=len(keys))

    def ratio(run: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return divided(run[drawn, 0].sum(1), run[drawn, 1].sum(1))

    everything = np.arange(len(keys))[None]
    value = float((ratio(after, everything) - ratio(before, everything))[0])
    return _interval(
        value,
        lambda drawn: ratio(after, drawn) - ratio(before, drawn),
        count=len(keys),
        seed=seed,
        resamples=resamples,
    )


def _shared(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """Keys that have a value in both, in order of their names: the order decides the draws."""
    return sorted(
        key for key, value in first.items() if value is not None and second.get(key) is not None
    )


def divided(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """(n,) quotients. NaN where the whole is 0: a draw without words has no error rate."""
    return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)


def _interval(
    value: float,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    count: int,
    seed: int,
    resamples: int,
) -> ScoreInterval:
    """statistic: (draws, count) indices → (draws,) values."""
    if count < 2:
        return ScoreInterval(value, None, None, count=count)
    random, block = np.random.default_rng(seed), max(1, BLOCK // count)
    drawn = np.concatenate(
        [
            statistic(random.integers(count, size=(min(block, resamples - done), count)))
            for done in range(0, resamples, block)
        ]
    )
    low, high = np.nanpercentile(drawn, PERCENTILES)
    return ScoreInterval(value, float(low), float(high), count=count)
