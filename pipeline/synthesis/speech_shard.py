"""One shard of made speech: what its voices say, and the tar of it.

The speech is clean: rooms, channels and noises are laid over it in training
(tokenizer/audio/augmentation.py), when its labels are made already.
"""

import io
import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr

from pipeline.synthesis import games
from pipeline.synthesis.alignment import FRAME_MS, frames, moved
from pipeline.synthesis.recordings import decode
from pipeline.synthesis.sentences import invented
from pipeline.synthesis.synthesizers import Request, speak
from pipeline.synthesis.voices import GAMES, HALVES, SHARES, Voice, foreign_espeak, voices
from tokenizer.audio import effects
from tokenizer.audio.effects import RATE
from tokenizer.audio.noises import KINDS, make_noise
from tokenizer.storage.tars import TarWriter

SHORTEST_S, LONGEST_S = 1.5, 15.0
# Rounds of speaking after which a voice that gives too little is left at that.
ROUNDS = 6
OTHERS_A_SHARD = 2
# A sentence of fewer may be joined to the next.
MANY_WORDS = 14
# Where all groups say the same texts, espeak-ng's many voices are this many of them.
ESPEAK_GROUPS = 4


@dataclass(frozen=True)
class Recordings:
    """Prompts that make one utterance, said by one person. paths: files, in order.

    Of a game it is a cast that says them, and the paths are names of games.lines().
    """

    voice: Voice
    paths: tuple[str, ...]


@dataclass(frozen=True)
class ShardPlan:
    """What a shard is made of. name: "a/a-000", say. seed: of all its random numbers.

    number: of the shard in its half. seconds: wanted of each family. sentences: English ones to
    say, each once. recordings: all used. same_texts: each group of voices says the same ones.
    """

    name: str
    half: str
    number: int
    seed: tuple[int, ...]
    seconds: dict[str, float]
    sentences: list[str]
    recordings: list[Recordings] = field(default_factory=list)
    same_texts: bool = False


@dataclass
class Clip:
    """A clean utterance on its way into a shard. phones: one label per 10 ms, or None."""

    voice: Voice
    text: str | None
    signal: np.ndarray
    factor: float = 1.0
    rate: float = 1.0
    pitch: float = 1.0
    phones: list[str] | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.signal) / RATE


def make_shard(plan: ShardPlan, path: Path) -> list[dict]:
    """Write a tar of KEY.flac and KEY.json, in a mixed order, to a local path.

    Returns a row an utterance: key, speaker, engine, language, seconds, and phones if it has them.
    """
    rng = np.random.default_rng(plan.seed)
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        clips = list(clean_clips(plan, rng, Path(scratch)))
    tar, rows = TarWriter(path), []
    for place, index in enumerate(rng.permutation(len(clips))):
        clip = clips[index]
        signal = effects.level(clip.signal, float(rng.uniform(-30, -16)))
        varied = {"factor": clip.factor, "rate": clip.rate, "pitch": clip.pitch}
        about = {name: round(value, 3) for name, value in varied.items()}
        key = f"{plan.name.rpartition('/')[2]}-{place:04d}"
        voice = clip.voice
        known = {"speaker": voice.speaker, "engine": voice.engine, "language": voice.language}
        said = {"voice": voice.name, "gender": voice.gender, "text": clip.text, "half": plan.half}
        tar.add(f"{key}.flac", flac(signal))
        tar.add(f"{key}.json", json.dumps({**known, **said, **about}).encode())
        row = {"key": key, **known, "seconds": round(clip.seconds, 3)}
        rows.append(row | ({"frame_ms": FRAME_MS, "phones": clip.phones} if clip.phones else {}))
    tar.close()
    return rows


def make_noise_shard(plan: ShardPlan, path: Path) -> list[dict]:
    """Write a tar of pure noises, as make_shard does; plan.seconds["noise"] is how much."""
    rng = np.random.default_rng(plan.seed)
    with tempfile.TemporaryDirectory(prefix="wavmill-") as scratch:
        talk = [clip.signal for clip in clean_clips(plan, rng, Path(scratch))]
    kinds = [kind for kind in KINDS if kind != "babble" or len(talk) >= 4]
    tar, rows, seconds = TarWriter(path), [], 0.0
    while seconds < plan.seconds["noise"]:
        kind = kinds[len(rows) % len(kinds)]
        signal = make_noise(kind, talk, rng)
        seconds += len(signal) / RATE
        key = f"{plan.name.rpartition('/')[2]}-{len(rows):04d}"
        tar.add(f"{key}.flac", flac(signal))
        tar.add(f"{key}.json", json.dumps({"noise": kind}).encode())
        rows.append({"key": key, "engine": "noise", "seconds": round(len(signal) / RATE, 3)})
    tar.close()
    return rows


def flac(signal: np.ndarray) -> bytes:
    """(n,) in -1..1 at 16 kHz as a 16-bit FLAC file."""
    data = io.BytesIO()
    soundfile.write(data, signal, RATE, format="FLAC", subtype="PCM_16")
    return data.getvalue()


def clean_clips(plan: ShardPlan, rng: np.random.Generator, scratch: Path) -> Iterator[Clip]:
    """All of a plan's utterances."""
    for recordings in plan.recordings:
        yield from _recorded(recordings, rng)
    # Short of text, a shard says its sentences again.
    sentences = itertools.cycle(plan.sentences)
    for family in SHARES:
        wanted = plan.seconds.get(family, 0.0)
        casts = _casts(plan, family) if wanted else []
        for cast in casts:
            half, texts = plan.half, sentences
            if plan.same_texts:
                # No half: of other languages nobody says the same.
                half, texts = "", _joined(itertools.cycle(plan.sentences))
            yield from _spoken(
                cast, half, wanted=wanted / len(casts), sentences=texts, rng=rng, scratch=scratch
            )


def _joined(sentences: Iterator[str]) -> Iterator[str]:
    """Sentences in a row made one until no request would join another to them."""
    for text in sentences:
        while len(text.split()) < MANY_WORDS:
            text = f"{text}, {next(sentences)}"
        yield text


def _casts(plan: ShardPlan, family: str) -> list[list[Voice]]:
    """Groups of voices that get equal time; within a group each utterance draws one."""
    halves = HALVES if plan.half not in HALVES else (plan.half,)
    known = [voice for half in halves for voice in voices(half, family)]
    if family == "espeak-ng" and plan.same_texts:
        # By variants, which are the persons: one dialect or another makes no other voice.
        variants = sorted({voice.name.partition("+")[2] for voice in known})
        groups = [set(variants[i::ESPEAK_GROUPS]) for i in range(ESPEAK_GROUPS)]
        return [[v for v in known if v.name.partition("+")[2] in group] for group in groups]
    if family == "espeak-ng":
        return [known]
    if family == "festival-other":
        first = plan.number * OTHERS_A_SHARD
        return [[known[(first + i) % len(known)]] for i in range(OTHERS_A_SHARD)]
    return [[voice] for voice in known]


def _spoken(
    cast: list[Voice],
    half: str,
    wanted: float,
    sentences: Iterator[str],
    rng: np.random.Generator,
    scratch: Path,
) -> Iterator[Clip]:
    """Clips of one group of voices, until there are `wanted` seconds.

    Raises RuntimeError when the engine gives nothing at all.
    """
    seconds = 0.0
    foreign = foreign_espeak(half) if len(cast) > 1 and half in HALVES else []
    for _ in range(ROUNDS):
        count = int((wanted - seconds) / 5) + 1
        requests = [_request(cast, foreign, sentences=sentences, rng=rng) for _ in range(count)]
        for speech in speak(requests, scratch):
            factor = float(rng.uniform(0.85, 1.18)) if rng.random() < 0.5 else 1.0
            clip = _cleaned(speech, factor)
            if clip is not None and seconds < wanted:
                seconds += clip.seconds
                yield clip
        if seconds >= wanted:
            return
    if not seconds:
        raise RuntimeError(f"nothing usable came from the voice {cast[0].speaker}")


def _request(cast, foreign, sentences: Iterator[str], rng: np.random.Generator) -> Request:
    abroad = bool(foreign) and rng.random() < 0.1
    voice = _drawn(foreign if abroad else cast, rng)
    rate, pitch = (float(np.exp(rng.uniform(-0.2, 0.2))) for _ in range(2))
    if voice.language != "en":
        return Request(voice, invented(voice.language, rng) + ".", rate=rate, pitch=pitch)
    text = next(sentences)
    # Two in one give the longer utterances; an engine makes a pause of the comma.
    if rng.random() < 0.5 and len(text.split()) < MANY_WORDS:
        text = f"{text}, {next(sentences)}"
    return Request(voice, text + ".", rate=rate, pitch=pitch)


def _drawn(cast: list[Voice], rng: np.random.Generator) -> Voice:
    """One voice, as often a woman's as a man's: espeak-ng has three times as many men."""
    gender = "mf"[rng.integers(2)]
    choice = [voice for voice in cast if voice.gender == gender] or cast
    return choice[rng.integers(len(choice))]


def _cleaned(speech, factor: float) -> Clip | None:
    """Resample, play `factor` times as fast, and trim; None for what is silent or ill-sized."""
    signal = soxr.resample(speech.signal, speech.rate * factor, RATE)
    span = effects.loud_span(signal)
    if span is None or not SHORTEST_S <= (span[1] - span[0]) / RATE <= LONGEST_S:
        return None
    signal = signal[span[0] : span[1]]
    phones = None
    if speech.phones:
        phones = frames(moved(speech.phones, factor, span[0] / RATE), len(signal) / RATE)
    request = speech.request
    return Clip(
        request.voice,
        request.text,
        signal=signal,
        factor=factor,
        rate=request.rate,
        pitch=request.pitch,
        phones=phones,
    )


def _recorded(recordings: Recordings, rng: np.random.Generator) -> Iterator[Clip]:
    """Prompts joined by short pauses; what is too long for one utterance is cut in its pauses."""
    read = games.decode if recordings.voice.family == GAMES else decode
    parts = []
    for path in recordings.paths:
        signal = read(path)
        span = effects.loud_span(signal)
        if span is not None:
            pause = np.zeros(int(rng.uniform(0.05, 0.2) * RATE), np.float32)
            parts += [signal[span[0] : span[1]], pause]
    signal = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    text = " ".join(Path(path).stem for path in recordings.paths)
    while len(signal):
        end = len(signal)
        if end > LONGEST_S * RATE:
            end = _quietest(signal, 6 * RATE, min(12 * RATE, end - 2 * RATE))
        part, signal = signal[:end], signal[end:]
        span = effects.loud_span(part)
        if span and span[1] - span[0] >= SHORTEST_S * RATE:
            yield Clip(recordings.voice, text, part[span[0] : span[1]])


def _quietest(signal: np.ndarray, first: int, last: int) -> int:
    """The middle of the quietest 0.1 s between two samples."""
    size = RATE // 10
    power = np.cumsum(np.square(signal[first:last], dtype=np.float64))
    return first + int(np.argmin(power[size:] - power[:-size])) + size // 2
