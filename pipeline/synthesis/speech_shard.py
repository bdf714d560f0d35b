"""One shard of synthetic and recorded speech: its utterances, and its tar.

The speech is clean. Rooms, channels and noises are added in training, once the labels are made: see
tokenizer/audio/augmentation.py.
"""

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from pipeline.synthesis.alignment import FRAME_MS, frame_labels, shift_phones
from pipeline.synthesis.games import decode_dialogue
from pipeline.synthesis.plan import RecordingGroup, ShardPlan
from pipeline.synthesis.recordings import decode_recording
from pipeline.synthesis.sentences import invented
from pipeline.synthesis.synthesizers import SpeechRequest, SyntheticSpeech, speak
from pipeline.synthesis.voices import GAMES, HALVES, SHARES, Voice, foreign_espeak, voices
from tokenizer.audio import effects
from tokenizer.audio.frames import SAMPLE_RATE as RATE
from tokenizer.audio.noises import KINDS, make_noise
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tars import TarWriter

SHORTEST_S, LONGEST_S = 1.5, 15.0
# A voice that has given too little speech after so many rounds of requests is left at that.
ROUNDS = 6
# Voices of festival-other in a shard.
OTHERS_A_SHARD = 2
# A sentence with fewer words may be joined to the next.
MANY_WORDS = 14
# With same_texts, the voices of espeak-ng form this many groups.
ESPEAK_GROUPS = 4


@dataclass
class Clip:
    """A clean utterance of a shard. phones: one label per 10 ms, or None.

    factor: playing speed after synthesis. rate, pitch: as in SpeechRequest.
    """

    voice: Voice
    text: str | None
    signal: np.ndarray
    factor: float = 1.0
    rate: float = 1.0
    pitch: float = 1.0
    phones: list[str] | None = None

    @property
    def seconds(self) -> float:
        """Duration of the signal."""
        return len(self.signal) / RATE


def make_shard(plan: ShardPlan, path: Path) -> list[dict]:
    """Write a tar of KEY.flac and KEY.json to a local path, in random order.

    Returns a row for each utterance: key, speaker, engine, language, seconds, and its phones if
    known.
    """
    rng = np.random.default_rng(plan.seed)
    with scratch_folder() as scratch:
        clips = list(clean_clips(plan, rng, scratch))
    tar, rows = TarWriter(path), list[dict]()
    for place, index in enumerate(rng.permutation(len(clips))):
        clip = clips[index]
        signal = effects.level(clip.signal, float(rng.uniform(-30, -16)))
        key = f"{plan.name.rpartition('/')[2]}-{place:04d}"
        voice = clip.voice
        speaker = {"speaker": voice.speaker, "engine": voice.engine, "language": voice.language}
        metadata = {
            **speaker,
            "voice": voice.name,
            "gender": voice.gender,
            "text": clip.text,
            "half": plan.half,
            "factor": round(clip.factor, 3),
            "rate": round(clip.rate, 3),
            "pitch": round(clip.pitch, 3),
        }
        tar.add(f"{key}.flac", flac(signal))
        tar.add(f"{key}.json", json.dumps(metadata).encode())
        row = {"key": key, **speaker, "seconds": round(clip.seconds, 3)}
        rows.append(row | ({"frame_ms": FRAME_MS, "phones": clip.phones} if clip.phones else {}))
    tar.close()
    return rows


def make_noise_shard(plan: ShardPlan, path: Path) -> list[dict]:
    """Write a tar of noises without speech, as make_shard does, of plan.seconds["noise"]."""
    rng = np.random.default_rng(plan.seed)
    with scratch_folder() as scratch:
        speech = [clip.signal for clip in clean_clips(plan, rng, scratch)]
    kinds = [kind for kind in KINDS if kind != "babble" or len(speech) >= 4]
    tar, rows, seconds = TarWriter(path), list[dict](), 0.0
    while seconds < plan.seconds["noise"]:
        kind = kinds[len(rows) % len(kinds)]
        signal = make_noise(kind, speech, rng)
        seconds += len(signal) / RATE
        key = f"{plan.name.rpartition('/')[2]}-{len(rows):04d}"
        tar.add(f"{key}.flac", flac(signal))
        tar.add(f"{key}.json", json.dumps({"noise": kind}).encode())
        rows.append({"key": key, "engine": "noise", "seconds": round(len(signal) / RATE, 3)})
    tar.close()
    return rows


def flac(signal: np.ndarray) -> bytes:
    """(n,) in -1..1 at 16 kHz → the bytes of a 16-bit FLAC file."""
    data = io.BytesIO()
    soundfile.write(data, signal, RATE, format="FLAC", subtype="PCM_16")
    return data.getvalue()


def clean_clips(plan: ShardPlan, rng: np.random.Generator, scratch: Path) -> Iterator[Clip]:
    """All utterances of a plan."""
    for recordings in plan.recordings:
        yield from _recorded_clips(recordings, rng)
    # If there are too few sentences, they are said again.
    sentences: Iterator[str] = itertools.cycle(plan.sentences)
    for family in SHARES:
        wanted = plan.seconds.get(family, 0.0)
        groups = _voice_groups(plan, family) if wanted else []
        for group in groups:
            foreign = foreign_espeak(plan.half) if len(group) > 1 and plan.half in HALVES else []
            texts = sentences
            if plan.same_texts:
                # Sentences in other languages are random, so they would not be the same.
                foreign, texts = [], _long_sentences(itertools.cycle(plan.sentences))
            yield from _synthetic_clips(
                group,
                foreign,
                wanted=wanted / len(groups),
                sentences=texts,
                rng=rng,
                scratch=scratch,
            )


def _long_sentences(sentences: Iterator[str]) -> Iterator[str]:
    """Consecutive sentences joined until they are too long for _request to join another."""
    for text in sentences:
        while len(text.split()) < MANY_WORDS:
            text = f"{text}, {next(sentences)}"
        yield text


def _voice_groups(plan: ShardPlan, family: str) -> list[list[Voice]]:
    """Groups of voices. All groups get equal time; each utterance draws a voice of its group."""
    halves = HALVES if plan.half not in HALVES else (plan.half,)
    known = [voice for half in halves for voice in voices(half, family)]
    if family == "espeak-ng" and plan.same_texts:
        # Grouped by variant: the dialects of one variant sound like one person.
        variants = sorted({voice.name.partition("+")[2] for voice in known})
        groups = [set(variants[i::ESPEAK_GROUPS]) for i in range(ESPEAK_GROUPS)]
        return [[v for v in known if v.name.partition("+")[2] in group] for group in groups]
    if family == "espeak-ng":
        return [known]
    if family == "festival-other":
        first = plan.number * OTHERS_A_SHARD
        return [[known[(first + i) % len(known)]] for i in range(OTHERS_A_SHARD)]
    return [[voice] for voice in known]


def _synthetic_clips(
    group: list[Voice],
    foreign: list[Voice],
    wanted: float,
    sentences: Iterator[str],
    rng: np.random.Generator,
    scratch: Path,
) -> Iterator[Clip]:
    """Utterances of a group of voices, until there are `wanted` seconds.

    foreign: voices of other languages that say some of them. Raises RuntimeError when the engine
    gives no usable speech at all.
    """
    seconds = 0.0
    for _ in range(ROUNDS):
        count = int((wanted - seconds) / 5) + 1
        requests = [_request(group, foreign, sentences=sentences, rng=rng) for _ in range(count)]
        for speech in speak(requests, scratch):
            factor = float(rng.uniform(0.85, 1.18)) if rng.random() < 0.5 else 1.0
            clip = _clip(speech, factor)
            if clip is not None and seconds < wanted:
                seconds += clip.seconds
                yield clip
        if seconds >= wanted:
            return
    if not seconds:
        raise RuntimeError(f"the voice {group[0].speaker} gave no usable speech")


def _request(
    group: list[Voice], foreign: list[Voice], sentences: Iterator[str], rng: np.random.Generator
) -> SpeechRequest:
    use_foreign = bool(foreign) and rng.random() < 0.1
    voice = _draw_voice(foreign if use_foreign else group, rng)
    rate, pitch = (float(np.exp(rng.uniform(-0.2, 0.2))) for _ in range(2))
    if voice.language != "en":
        return SpeechRequest(voice, invented(voice.language, rng) + ".", rate=rate, pitch=pitch)
    text = next(sentences)
    # Two sentences in one make some utterances longer. Engines pause at the comma.
    if rng.random() < 0.5 and len(text.split()) < MANY_WORDS:
        text = f"{text}, {next(sentences)}"
    return SpeechRequest(voice, text + ".", rate=rate, pitch=pitch)


def _draw_voice(group: list[Voice], rng: np.random.Generator) -> Voice:
    """A random voice, women and men equally often: espeak-ng has three times as many men."""
    gender = "mf"[rng.integers(2)]
    choice = [voice for voice in group if voice.gender == gender] or group
    return choice[rng.integers(len(choice))]


def _clip(speech: SyntheticSpeech, factor: float) -> Clip | None:
    """Resample, play `factor` times as fast, and trim; None if silent, too short or too long."""
    signal = soxr.resample(speech.signal, speech.rate * factor, RATE)
    span = effects.loud_span(signal)
    if span is None or not SHORTEST_S <= (span[1] - span[0]) / RATE <= LONGEST_S:
        return None
    signal = signal[span[0] : span[1]]
    labels = None
    if speech.phones:
        phones = shift_phones(speech.phones, factor, start=span[0] / RATE)
        labels = frame_labels(phones, len(signal) / RATE)
    request = speech.request
    return Clip(
        request.voice,
        request.text,
        signal=signal,
        factor=factor,
        rate=request.rate,
        pitch=request.pitch,
        phones=labels,
    )


def _recorded_clips(group: RecordingGroup, rng: np.random.Generator) -> Iterator[Clip]:
    """Recordings joined with short pauses, and cut at quiet places if they are too long."""
    decode = decode_dialogue if group.voice.family == GAMES else decode_recording
    parts = []
    for path in group.paths:
        signal = decode(path)
        span = effects.loud_span(signal)
        if span is not None:
            pause = np.zeros(int(rng.uniform(0.05, 0.2) * RATE), np.float32)
            parts += [signal[span[0] : span[1]], pause]
    signal = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    text = " ".join(Path(path).stem for path in group.paths)
    while len(signal):
        end = len(signal)
        if end > LONGEST_S * RATE:
            end = _quietest(signal, 6 * RATE, min(12 * RATE, end - 2 * RATE))
        part, signal = signal[:end], signal[end:]
        span = effects.loud_span(part)
        if span and span[1] - span[0] >= SHORTEST_S * RATE:
            yield Clip(group.voice, text, part[span[0] : span[1]])


def _quietest(signal: np.ndarray, first: int, last: int) -> int:
    """The centre of the quietest 0.1 s between two samples."""
    size = RATE // 10
    power = np.cumsum(np.square(signal[first:last], dtype=np.float64))
    return first + int(np.argmin(power[size:] - power[:-size])) + size // 2
