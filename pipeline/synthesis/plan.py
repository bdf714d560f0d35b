"""What each shard of synthetic and recorded speech is made of."""

from dataclasses import dataclass, field

import numpy as np

from pipeline.synthesis.games import GAME_SOURCES, list_dialogue
from pipeline.synthesis.recordings import RECORDING_SOURCES, list_recordings
from pipeline.synthesis.voices import GAMES, HALVES, RECORDINGS, SHARES, Voice

# Games are not a default: figures are published with a command that was run without them.
DEFAULT_ENGINES = (*SHARES, RECORDINGS)
ENGINES = (*DEFAULT_ENGINES, GAMES)
# The largest share of recordings and games if there are synthesisers too.
MOST_RECORDED = 0.6
MOST_NOISE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """What to make. hours: of speech, in both halves together. engines: some of ENGINES.

    text: files with further sentences to say. same_texts: the voices of a half say the same
    sentences, in English only.
    """

    hours: float = 14.0
    seed: int = 0
    shard_minutes: float = 15.0
    engines: tuple[str, ...] = DEFAULT_ENGINES
    text: tuple[str, ...] = ()
    same_texts: bool = False


@dataclass(frozen=True)
class RecordingGroup:
    """Recordings that are joined into one utterance, usually of one speaker. paths: in order.

    For a game the paths are names of list_dialogue(), and there are several speakers.
    """

    voice: Voice
    paths: tuple[str, ...]


@dataclass(frozen=True)
class ShardPlan:
    """The contents of a shard. name: such as "a/a-000". seed: of all its random numbers.

    number: of the shard within its half. seconds: {family: speech to make}. sentences: English,
    each said once. recordings: all are used. same_texts: every group of voices says the same
    sentences.
    """

    name: str
    half: str
    number: int
    seed: tuple[int, ...]
    seconds: dict[str, float]
    sentences: list[str]
    recordings: list[RecordingGroup] = field(default_factory=list)
    same_texts: bool = False


def plan_shards(settings: SynthesisSettings, sentences: list[str]) -> list[ShardPlan]:
    """The contents of every shard: a pure function of the settings and the installed packages."""
    rng = np.random.default_rng(settings.seed)
    order = [sentences[i] for i in rng.permutation(len(sentences))]
    half_s = settings.hours * 1800
    count = max(1, round(half_s / 60 / settings.shard_minutes))
    shares = {family: share for family, share in SHARES.items() if family in settings.engines}
    plans = []
    for side, half in enumerate(HALVES):
        limit_s = half_s * (MOST_RECORDED if shares else 1)
        recordings, recorded_s = _choose_recordings(
            half, settings.engines, limit_s=limit_s, rng=rng
        )
        synthetic_s = max(0.0, half_s - recorded_s) / count
        seconds = {
            family: synthetic_s * share / sum(shares.values()) for family, share in shares.items()
        }
        for number in range(count):
            plans.append(
                ShardPlan(
                    name=f"{half}/{half}-{number:03d}",
                    half=half,
                    number=number,
                    seed=(settings.seed, side, number),
                    seconds=seconds,
                    sentences=order[side * count + number :: 2 * count] or order,
                    recordings=recordings[number::count],
                    same_texts=settings.same_texts,
                )
            )
    noise_s = min(MOST_NOISE_S, settings.hours * 3600 / 20)
    count = max(1, round(noise_s / 60 / settings.shard_minutes))
    for number in range(count):
        plans.append(
            ShardPlan(
                name=f"noise/noise-{number:03d}",
                half="noise",
                number=number,
                seed=(settings.seed, 2, number),
                # Babble needs speech of every family.
                seconds=dict.fromkeys(shares, min(40.0, noise_s)) | {"noise": noise_s / count},
                sentences=order[:400],
            )
        )
    return plans


def _choose_recordings(
    half: str, engines: tuple[str, ...], limit_s: float, rng: np.random.Generator
) -> tuple[list[RecordingGroup], float]:
    """Random groups of recordings of a half, up to limit_s, and their seconds in all.

    Short recordings that follow each other form a group.
    """
    groups: list[tuple[RecordingGroup, float]] = []
    for voice, listed in recordings_by_voice(half, engines):
        names: list[str] = []
        seconds, enough = 0.0, rng.uniform(2.5, 9)
        for name, duration in listed:
            if names and seconds + duration > 13:
                groups.append((RecordingGroup(voice, tuple(names)), seconds))
                names, seconds, enough = [], 0.0, rng.uniform(2.5, 9)
            names.append(name)
            seconds += duration
            if seconds >= enough:
                groups.append((RecordingGroup(voice, tuple(names)), seconds))
                names, seconds, enough = [], 0.0, rng.uniform(2.5, 9)
        if names:
            groups.append((RecordingGroup(voice, tuple(names)), seconds))
    chosen, total = [], 0.0
    for index in rng.permutation(len(groups)):
        group, seconds = groups[index]
        if total + seconds <= limit_s:
            chosen.append(group)
            total += seconds
    return chosen, total


def recordings_by_voice(
    half: str, engines: tuple[str, ...]
) -> list[tuple[Voice, list[tuple[str, float]]]]:
    """The voices of a half that are recorded, with (name, seconds) of each recording."""
    known = {
        RECORDINGS: (RECORDING_SOURCES, list_recordings),
        GAMES: (GAME_SOURCES, list_dialogue),
    }
    return [
        (
            Voice(family, source.name, language=source.language, gender=source.gender),
            listing(source),
        )
        for family, (sources, listing) in known.items()
        if family in engines
        for source in sources[half]
    ]
