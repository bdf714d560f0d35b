"""How much sequences repeat themselves and one another, and how long they are silent.

Auto-BLEU, self-BLEU and VERT are GSLM's (Lakhotia et al. 2021, arXiv 2102.01192). The share of
repeated n-grams is seq-rep-n (Welleck et al. 2019, arXiv 1908.04319). Sequences are tokens, or the
words of transcripts, each word as a number.

Plain NumPy: n-grams are numbered, so that a thousand continuations of 500 tokens take seconds.
"""

import math
from collections.abc import Sequence

import numpy as np

# GSLM's own n: "auto-BLEU-2", over unigrams and bigrams.
BLEU_SIZE = 2
REPEATED_SIZE = 4
FRAME_SECONDS = 0.02
# Praat's "To TextGrid (silences)": silence is this far below the loudest frame, and lasts at least
# so long.
SILENT_DB, LEAST_PAUSE = 25.0, 0.1
LEAST_POWER = 1e-12


def auto_bleu(sequence: np.ndarray, size: int = BLEU_SIZE) -> float:
    """How much a sequence repeats itself, 0 to 1: GSLM's auto-BLEU.

    Of each n-gram length k from 1 to `size`, the share of the sequence's n-grams that occur in it
    once more; then the geometric mean over k. Occurrences may overlap, as in the paper's formula:
    its program does not count those. sequence: (T,) integers. Fewer than `size`: 0.
    """
    if len(sequence) < size:
        return 0.0
    shares = []
    for k in range(1, size + 1):
        _, counts = np.unique(_numbered([sequence], k)[1], return_counts=True)
        shares.append(counts[counts > 1].sum() / counts.sum())
    return float(np.prod(shares) ** (1 / size))


def self_bleu(sequences: Sequence[np.ndarray], size: int = BLEU_SIZE) -> np.ndarray:
    """How much of each sequence occurs in one of the others, (N,) from 0 to 1: GSLM's self-BLEU.

    BLEU (Papineni et al. 2002) of each sequence with all others as its references: the geometric
    mean over n-gram lengths k from 1 to `size` of the modified precision, in which an n-gram counts
    at most as often as it occurs in any one reference. Without length penalty, as in GSLM's
    program. It grows with the number of sequences. sequences: (T,) integers each; 0 where nothing
    is shared, and for fewer than `size`.
    """
    count = len(sequences)
    product = np.ones(count)
    for k in range(1, size + 1):
        owners, numbers = _numbered(sequences, k)
        cells, times = np.unique(numbers * count + owners, return_counts=True)
        grams, owners = cells // max(count, 1), cells % max(count, 1)
        # The sequences that have an n-gram side by side, the one that has it most often first.
        order = np.lexsort((-times, grams))
        grams, owners, times = grams[order], owners[order], times[order]
        first = np.append(True, grams[1:] != grams[:-1])[: len(grams)]
        largest = times[first][np.cumsum(first) - 1]
        alone = np.append(first[1:], True)[: len(grams)]
        second = np.where(alone, 0, np.append(times[1:], 0)[: len(grams)])
        of_others = np.where(first, second, largest)
        matched = np.bincount(owners, np.minimum(times, of_others), count)
        product *= matched / np.maximum(np.bincount(owners, times, count), 1)
    return product ** (1 / size)


def vert(self_bleus: np.ndarray, auto_bleus: np.ndarray) -> float:
    """GSLM's VERT: the geometric mean of mean self-BLEU and mean auto-BLEU, of (N,) each."""
    return math.sqrt(float(np.mean(self_bleus)) * float(np.mean(auto_bleus)))


def same_as_before(tokens: np.ndarray) -> float | None:
    """The share of tokens, from the second on, that equal the one before; None for under two."""
    return float(np.mean(tokens[1:] == tokens[:-1])) if len(tokens) > 1 else None


def repeated_ngrams(tokens: np.ndarray, size: int = REPEATED_SIZE) -> float | None:
    """The share of n-grams that occurred before in the same sequence: seq-rep-n.

    1 - different n-grams / n-grams; they overlap. None for fewer than `size` tokens.
    """
    _, numbers = _numbered([tokens], size)
    return 1 - len(np.unique(numbers)) / len(numbers) if len(numbers) else None


def silence(wave: np.ndarray, sample_rate: int, loudest: float) -> tuple[float, float]:
    """The share of a sound that is silent, and its longest pause in seconds.

    A frame of 20 ms is silent if its power is more than 25 dB below `loudest`, and silence counts
    where it lasts 0.1 s or more: the defaults of Praat's "To TextGrid (silences)", with root mean
    squares in the place of Praat's intensity. loudest: power of the loudest frame of the speech
    that it is compared with, see `loudest_frame`. wave: (n,); without a whole frame: all silent.
    """
    powers = _powers(wave, sample_rate)
    if not len(powers):
        return 1.0, len(wave) / sample_rate
    quiet = powers < max(loudest, LEAST_POWER) * 10 ** (-SILENT_DB / 10)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
    runs = edges[1::2] - edges[::2]
    runs = runs[runs * FRAME_SECONDS >= LEAST_PAUSE - 1e-9]
    return float(runs.sum() / len(quiet)), float(runs.max(initial=0) * FRAME_SECONDS)


def loudest_frame(wave: np.ndarray, sample_rate: int) -> float:
    """The power of the loudest frame of 20 ms; 0 without one."""
    return float(_powers(wave, sample_rate).max(initial=0.0))


def _powers(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """The power of each whole frame."""
    size = round(FRAME_SECONDS * sample_rate)
    frames = wave[: len(wave) // size * size].reshape(-1, size)
    return np.einsum("fs,fs->f", frames, frames, dtype=np.float64) / size


def _numbered(sequences: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """All n-grams of this size: whose each is, and its number; equal ones have one number."""
    owners = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    if len(owners) < size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    _, single = np.unique(np.concatenate(sequences), return_inverse=True)
    numbers = single = single.astype(np.int64)
    for k in range(1, size):
        longer = numbers[:-1] * (single.max() + 1) + single[k:]
        _, numbers = np.unique(longer, return_inverse=True)
    whole = owners[: len(numbers)] == owners[size - 1 :]
    return owners[: len(numbers)][whole], numbers[whole]
