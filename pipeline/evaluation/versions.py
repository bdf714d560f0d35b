"""Pairs of versions of the same speech, each with the sample at which its second half starts.

The other version is another voice that says the same text, or the same recording with another
pitch, background noise or room. Recordings of one text are cut at the same phone if phone labels
are known.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations, pairwise

import numpy as np
import soxr

from pipeline.evaluation.phone_labels import SILENCE
from tokenizer.audio.augmentation import room
from tokenizer.audio.effects import level
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.noises import make_noise

LEVEL_DBFS = -23.0
# The kinds of make_noise that need no speech, without pink, which lies between white and brown.
BACKGROUNDS = ("clean", "white", "brown", "hum", "clicks", "music")
# Signal-to-noise ratio.
NOISE_DB = (0.0, 10.0)
# One version is shifted up by this, the other down.
SEMITONES = (2.0, 3.5)
# Reverberation time (seconds to -60 dB) of the small and of the large room.
SMALL_ROOM, LARGE_ROOM = (0.15, 0.3), (0.7, 1.2)
# Cuts are this far from either end, as a share of the recording.
MARGIN = 0.3
# Power is measured in frames of 10 ms.
FRAME = SAMPLE_RATE // 100
# Frames this far below the loudest one are silent.
SILENT_DB = 35

# Two waveforms, and what they are.
_Waves = tuple[tuple[np.ndarray, np.ndarray], tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """wave: (n,) float32 at 16 kHz. speaker, gender ("f" or "m"), text, language: "" if not known.

    phones: duration of a label in seconds, and the labels; or None.
    """

    key: str
    wave: np.ndarray
    speaker: str = ""
    gender: str = ""
    text: str = ""
    language: str = ""
    phones: tuple[float, list[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class VersionPair:
    """Two waveforms (n,), and the sample at which the second half of each starts.

    keys, speakers: of the two recordings. names: descriptions of the two versions.
    """

    waves: tuple[np.ndarray, np.ndarray]
    cuts: tuple[int, int]
    keys: tuple[str, str]
    speakers: tuple[str, str]
    names: tuple[str, str]
    text: str


def voice_versions(
    recordings: list[Recording],
    random: np.random.Generator,
    differ: Callable[[Recording, Recording], bool],
) -> Iterator[VersionPair]:
    """Two recordings of one text for which `differ` is true.

    In random order; recordings that were used least come first.
    """
    of_text = defaultdict(list)
    for recording in recordings:
        if recording.text and recording.speaker:
            of_text[recording.language, recording.text].append(recording)
    pairs = [pair for same in of_text.values() for pair in combinations(same, 2) if differ(*pair)]
    pairs = [pairs[place] for place in random.permutation(len(pairs))]
    used: Counter[str] = Counter()
    while pairs:
        uses = [max(used[first.key], used[second.key]) for first, second in pairs]
        first, second = pairs.pop(int(np.argmin(uses)))
        cuts = matching_cuts(first, second)
        if cuts is None:
            continue
        used.update((first.key, second.key))
        yield VersionPair(
            waves=(first.wave, second.wave),
            cuts=cuts,
            keys=(first.key, second.key),
            speakers=(first.speaker, second.speaker),
            names=(_voice_name(first), _voice_name(second)),
            text=first.text,
        )


def _voice_name(recording: Recording) -> str:
    return f"{recording.speaker} ({recording.gender or 'gender unknown'})"


def pitch_versions(
    recordings: list[Recording], random: np.random.Generator
) -> Iterator[VersionPair]:
    """One recording shifted up, and shifted down, by 2 to 3.5 semitones, formants included."""

    def make(wave: np.ndarray) -> _Waves:
        semitones = float(random.uniform(*SEMITONES))
        names = f"+{semitones:.1f} semitones", f"-{semitones:.1f} semitones"
        return (shift_pitch(wave, semitones), shift_pitch(wave, -semitones)), names

    return _versions_of_each(recordings, random, make)


def background_versions(
    recordings: list[Recording], random: np.random.Generator
) -> Iterator[VersionPair]:
    """One recording with two different backgrounds, at a signal-to-noise ratio of 0 to 10 dB.

    One of the backgrounds may be none.
    """

    def make(wave: np.ndarray) -> _Waves:
        first, second = (BACKGROUNDS[i] for i in random.permutation(len(BACKGROUNDS))[:2])
        waves = _with_background(wave, first, random), _with_background(wave, second, random)
        return waves, (first, second)

    return _versions_of_each(recordings, random, make)


def room_versions(
    recordings: list[Recording], random: np.random.Generator
) -> Iterator[VersionPair]:
    """One recording in a small and in a large room."""

    def make(wave: np.ndarray) -> _Waves:
        small, large = (float(random.uniform(*limits)) for limits in (SMALL_ROOM, LARGE_ROOM))
        names = f"{small:.2f} s to -60 dB", f"{large:.2f} s to -60 dB"
        return (room(wave, small, random), room(wave, large, random)), names

    return _versions_of_each(recordings, random, make)


def _versions_of_each(
    recordings: list[Recording],
    random: np.random.Generator,
    make: Callable[[np.ndarray], _Waves],
) -> Iterator[VersionPair]:
    for place in random.permutation(len(recordings)):
        recording = recordings[place]
        (first, second), names = make(recording.wave)
        size = len(recording.wave)
        cut = quietest(recording.wave, size // 2, size // 10)
        yield VersionPair(
            waves=(level(first, LEVEL_DBFS), level(second, LEVEL_DBFS)),
            cuts=(cut, cut),
            keys=(recording.key, recording.key),
            speakers=(recording.speaker, recording.speaker),
            names=names,
            text=recording.text,
        )


def matching_cuts(first: Recording, second: Recording) -> tuple[int, int] | None:
    """The samples at which to cut two recordings of one text, so that their halves fit together.

    With phone labels, the cut is between two phones that both recordings contain, in a pause if
    there is one near the middle; None if there is no such place. Without labels, it is at the same
    share of the speech between leading and trailing silence, at the quietest sample nearby.
    """
    if first.phones and second.phones:
        return _cuts_between_phones(first, second)
    begin, end = _speech_span(first.wave)
    first_cut = quietest(first.wave, (begin + end) // 2, (end - begin) // 10)
    share = (first_cut - begin) / (end - begin)
    begin, end = _speech_span(second.wave)
    middle = int(begin + share * (end - begin))
    return first_cut, quietest(second.wave, middle, SAMPLE_RATE // 20)


def _cuts_between_phones(first: Recording, second: Recording) -> tuple[int, int] | None:
    sides = [
        (_segments(*recording.phones), len(recording.wave))
        for recording in (first, second)
        if recording.phones
    ]
    names = [[name for name, _, _ in segments] for segments, _ in sides]
    best, lowest_cost = None, np.inf
    matcher = SequenceMatcher(None, names[0], names[1], autojunk=False)
    for *starts, size in matcher.get_matching_blocks():
        for step in range(1, size):
            cuts, distances, pauses = [], [], []
            for (segments, samples), start in zip(sides, starts):
                pause_begin, pause_end = segments[start + step - 1][2], segments[start + step][1]
                cuts.append((pause_begin + pause_end) / 2)
                distances.append(abs(cuts[-1] / samples * SAMPLE_RATE - 0.5))
                pauses.append(pause_end - pause_begin)
            # A pause is preferred if it is up to a tenth of the recording further from the middle.
            cost = max(distances) - 0.1 * (min(pauses) > 0)
            if max(distances) < 0.5 - MARGIN and cost < lowest_cost:
                best, lowest_cost = (int(cuts[0] * SAMPLE_RATE), int(cuts[1] * SAMPLE_RATE)), cost
    return best


def _segments(label_seconds: float, labels: list[str]) -> list[tuple[str, float, float]]:
    """Labels of equal duration → (phone, begin, end in seconds), without silences."""
    edges = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
    spans = ((labels[a], a * label_seconds, b * label_seconds) for a, b in pairwise(edges))
    return [span for span in spans if span[0] != SILENCE]


def _powers(wave: np.ndarray) -> np.ndarray:
    """Mean power of each frame of 10 ms."""
    whole = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
    return np.square(whole, dtype=np.float64).mean(1)


def _speech_span(wave: np.ndarray) -> tuple[int, int]:
    """First and last sample of the part between leading and trailing silence."""
    powers = _powers(wave)
    loud = np.flatnonzero(powers > powers.max() * 10 ** (-SILENT_DB / 10))
    return int(loud[0]) * FRAME, int(loud[-1] + 1) * FRAME


def quietest(wave: np.ndarray, middle: int, reach: int) -> int:
    """The centre of the quietest 30 ms that are centred within `reach` samples of `middle`."""
    powers = np.convolve(_powers(wave), np.ones(3), "same")
    first = max(1, (middle - reach) // FRAME)
    last = min(len(powers) - 1, max(first + 1, (middle + reach) // FRAME))
    return (first + int(np.argmin(powers[first:last]))) * FRAME + FRAME // 2


def _with_background(wave: np.ndarray, background: str, random: np.random.Generator) -> np.ndarray:
    """Add a noise of make_noise to the whole recording."""
    if background == "clean":
        return wave
    noise = np.resize(make_noise(background, [], random), len(wave))
    ratio = np.mean(np.square(wave)) / (np.mean(np.square(noise)) + 1e-12)
    return wave + noise * np.sqrt(ratio / 10 ** (random.uniform(*NOISE_DB) / 10))


def shift_pitch(wave: np.ndarray, semitones: float) -> np.ndarray:
    """Shift pitch and formants, (n,) → (n,), at the same tempo.

    Resampling changes pitch and length; WSOLA (Verhelst and Roelands, 1993) restores the length. It
    overlap-adds pieces of 40 ms, each taken where it best continues the piece before it.
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
            candidates = padded[ideal - reach : ideal + reach + size]
            continuation = padded[place + hop : place + hop + size]
            offset = int(np.argmax(np.correlate(candidates, continuation, "valid")))
            place = ideal - reach + offset
        out[start : start + size] += window * padded[place : place + size]
        weight[start : start + size] += window
    return (out / np.maximum(weight, 1e-3))[: len(wave)].astype(np.float32)
