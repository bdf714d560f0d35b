"""Two versions of the same speech, and where in each of them its second half begins.

Another voice that says the same text; or the same recording at another pitch, before another
background, in another room. Where texts are cut is told by their phones, if these are known.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations, pairwise

import numpy as np
import soxr

from pipeline.synthesis.alignment import SILENCE
from tokenizer.audio.augmentation import room
from tokenizer.audio.effects import level
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.noises import make_noise

LEVEL_DBFS = -23.0
# What make_noise makes of no speech, but for pink, which is between white and brown.
BACKGROUNDS = ("clean", "white", "brown", "hum", "clicks", "music")
NOISE_DB = (0.0, 10.0)
# Semitones up for one version and down for the other.
SEMITONES = (2.0, 3.5)
# Seconds to -60 dB of the drier and of the more echoing room.
SMALL_ROOM, LARGE_ROOM = (0.15, 0.3), (0.7, 1.2)
# A cut lies in the middle part of a recording, this far from its ends, as a share.
MIDDLE = 0.3
# Frames of 10 ms in which quiet places are sought.
FRAME = SAMPLE_RATE // 100
# Below its loudest frame by this a recording has not begun, or is over.
SILENT_DB = 35


@dataclass(frozen=True)
class Recording:
    """wave: (n,) float32 at 16 kHz. speaker, gender ("f" or "m"), text, language: "" if not known.

    phones: seconds that a label is long, and the labels; or None.
    """

    key: str
    wave: np.ndarray
    speaker: str = ""
    gender: str = ""
    text: str = ""
    language: str = ""
    phones: tuple[float, list[str]] | None = None


@dataclass(frozen=True)
class Versions:
    """Two waves (n,), and of each the sample at which its second half begins.

    keys, speakers: of the recordings. names: what the versions are.
    """

    waves: tuple[np.ndarray, np.ndarray]
    cuts: tuple[int, int]
    keys: tuple[str, str]
    speakers: tuple[str, str]
    names: tuple[str, str]
    text: str


def another_voice(
    recordings: list[Recording],
    random: np.random.Generator,
    differ: Callable[[Recording, Recording], bool],
) -> Iterator[Versions]:
    """Recordings of one text that `differ`, in a random order, those that were used least first."""
    of_text = defaultdict(list)
    for recording in recordings:
        if recording.text and recording.speaker:
            of_text[recording.language, recording.text].append(recording)
    couples = [
        couple for same in of_text.values() for couple in combinations(same, 2) if differ(*couple)
    ]
    couples = [couples[place] for place in random.permutation(len(couples))]
    used = Counter()
    while couples:
        often = [max(used[one.key], used[other.key]) for one, other in couples]
        one, other = couples.pop(int(np.argmin(often)))
        cuts = cut_together(one, other)
        if cuts is None:
            continue
        used.update((one.key, other.key))
        pair = (one, other)
        names = tuple(f"{r.speaker} ({r.gender or 'gender unknown'})" for r in pair)
        waves, keys, speakers = zip(*((r.wave, r.key, r.speaker) for r in pair))
        yield Versions(waves, cuts, keys=keys, speakers=speakers, names=names, text=one.text)


def another_pitch(recordings: list[Recording], random: np.random.Generator) -> Iterator[Versions]:
    """One version is higher by 2 to 3.5 semitones, formants and all, and the other lower."""

    def make(wave: np.ndarray):
        semitones = float(random.uniform(*SEMITONES))
        up, down = (shift_pitch(wave, sign * semitones) for sign in (1, -1))
        return (up, down), (f"+{semitones:.1f} semitones", f"-{semitones:.1f} semitones")

    return _of_one(recordings, random, make)


def another_background(
    recordings: list[Recording], random: np.random.Generator
) -> Iterator[Versions]:
    """Before two different backgrounds, one of them perhaps none, at 0 to 10 dB under the voice."""

    def make(wave: np.ndarray):
        names = tuple(BACKGROUNDS[i] for i in random.permutation(len(BACKGROUNDS))[:2])
        return tuple(_before(wave, name, random) for name in names), names

    return _of_one(recordings, random, make)


def another_room(recordings: list[Recording], random: np.random.Generator) -> Iterator[Versions]:
    """In a small and in a large room."""

    def make(wave: np.ndarray):
        times = [float(random.uniform(*limits)) for limits in (SMALL_ROOM, LARGE_ROOM)]
        names = tuple(f"{seconds:.2f} s to -60 dB" for seconds in times)
        return tuple(room(wave, seconds, random) for seconds in times), names

    return _of_one(recordings, random, make)


def _of_one(recordings: list[Recording], random: np.random.Generator, make) -> Iterator[Versions]:
    for place in random.permutation(len(recordings)):
        own = recordings[place]
        waves, names = make(own.wave)
        waves = tuple(level(wave, LEVEL_DBFS) for wave in waves)
        cut = quietest(own.wave, len(own.wave) // 2, len(own.wave) // 10)
        yield Versions(
            waves,
            (cut, cut),
            keys=(own.key,) * 2,
            speakers=(own.speaker,) * 2,
            names=names,
            text=own.text,
        )


def cut_together(one: Recording, other: Recording) -> tuple[int, int] | None:
    """Where to cut two recordings of one text so that halves fit; None when they say it too
    differently.

    With phones, between two that both have there, at a pause if there is one near the middle. Else
    at the same share of what is between the silences at their ends, at the quietest sample near.
    """
    if one.phones and other.phones:
        return _between_phones(one, other)
    begin, end = _spoken(one.wave)
    first = quietest(one.wave, (begin + end) // 2, (end - begin) // 10)
    share = (first - begin) / (end - begin)
    begin, end = _spoken(other.wave)
    second = quietest(other.wave, int(begin + share * (end - begin)), SAMPLE_RATE // 20)
    return first, second


def _between_phones(one: Recording, other: Recording) -> tuple[int, int] | None:
    segments = [_segments(*recording.phones) for recording in (one, other)]
    names = [[name for name, _, _ in own] for own in segments]
    best, cost = None, np.inf
    for first, second, size in SequenceMatcher(None, *names, autojunk=False).get_matching_blocks():
        for step in range(1, size):
            sides, far, pauses = [], 0.0, []
            for recording, own, place in zip((one, other), segments, (first, second)):
                ends, begins = own[place + step - 1][2], own[place + step][1]
                sides.append((ends + begins) / 2)
                far = max(far, abs(sides[-1] / len(recording.wave) * SAMPLE_RATE - 0.5))
                pauses.append(begins - ends)
            # A pause is worth going a tenth of the recording away from its middle.
            own_cost = far - 0.1 * (min(pauses) > 0)
            if far < 0.5 - MIDDLE and own_cost < cost:
                best, cost = tuple(int(side * SAMPLE_RATE) for side in sides), own_cost
    return best


def _segments(seconds: float, labels: list[str]) -> list[tuple[str, float, float]]:
    """Labels of equal length → (phone, begin, end in seconds) without the silences."""
    edges = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
    spans = ((labels[a], a * seconds, b * seconds) for a, b in pairwise(edges))
    return [span for span in spans if span[0] != SILENCE]


def _powers(wave: np.ndarray) -> np.ndarray:
    whole = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
    return np.square(whole, dtype=np.float64).mean(1)


def _spoken(wave: np.ndarray) -> tuple[int, int]:
    """The samples between the silences at both ends."""
    powers = _powers(wave)
    loud = np.flatnonzero(powers > powers.max() * 10 ** (-SILENT_DB / 10))
    return int(loud[0]) * FRAME, int(loud[-1] + 1) * FRAME


def quietest(wave: np.ndarray, middle: int, reach: int) -> int:
    """The middle of the quietest 30 ms whose middle is within `reach` samples of `middle`."""
    powers = np.convolve(_powers(wave), np.ones(3), "same")
    first = max(1, (middle - reach) // FRAME)
    last = min(len(powers) - 1, max(first + 1, (middle + reach) // FRAME))
    return (first + int(np.argmin(powers[first:last]))) * FRAME + FRAME // 2


def _before(wave: np.ndarray, background: str, random: np.random.Generator) -> np.ndarray:
    """Lay a noise of make_noise behind the whole of a voice."""
    if background == "clean":
        return wave
    noise = np.resize(make_noise(background, [], random), len(wave))
    ratio = np.mean(np.square(wave)) / (np.mean(np.square(noise)) + 1e-12)
    return wave + noise * np.sqrt(ratio / 10 ** (random.uniform(*NOISE_DB) / 10))


def shift_pitch(wave: np.ndarray, semitones: float) -> np.ndarray:
    """Pitch and formants up or down, (n,) → (n,) at the same pace.

    Played faster or slower, then brought back to its length by WSOLA (Verhelst and Roelands, 1993):
    pieces of 40 ms laid over each other, each from where the wave goes on best from the last.
    """
    factor = 2 ** (semitones / 12)
    fast = soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE)
    size, reach = SAMPLE_RATE // 25, SAMPLE_RATE // 100
    hop, window = size // 2, np.hanning(size + 1)[:-1]
    padded = np.pad(fast, (reach, size + hop + 2 * reach))
    out, weight = np.zeros(len(wave) + 2 * size), np.zeros(len(wave) + 2 * size)
    place = reach
    for start in range(0, len(wave) + hop, hop):
        ideal = min(reach + int(start * len(fast) / len(wave)), len(padded) - size - hop - reach)
        if start:
            near = padded[ideal - reach : ideal + reach + size]
            goes_on = padded[place + hop : place + hop + size]
            place = ideal - reach + int(np.argmax(np.correlate(near, goes_on, "valid")))
        out[start : start + size] += window * padded[place : place + size]
        weight[start : start + size] += window
    return (out / np.maximum(weight, 1e-3))[: len(wave)].astype(np.float32)
