"""Scores of continuations while they come, the model's and the real ones side by side.

Sound is scored and dropped. What is kept of an utterance is a number for each score; and of some
utterances, drawn by seed, tokens and transcripts for self-BLEU.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm.evaluation.generation import Continued, ContinuedSound
from lm.evaluation.generation_measures import (
    auto_bleu,
    loudest_frame,
    repeated_ngrams,
    same_as_before,
    silence,
)
from pipeline.evaluation.score_models import ScoreModels
from pipeline.scores.naturalness import DNSMOS, dnsmos
from pipeline.scores.speakers import similarity
from pipeline.scores.text_perplexity import TextPerplexity
from pipeline.scores.unscored import Unscored
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.resampling import resample

# The two columns: a language model's continuations, and the real ones.
MODEL, REAL = "model", "real"
NO_WORDS = "its transcript has no word"
TOO_LONG = "its transcript is longer than the text model's context"
ONE_TOKEN = "its transcript has one token"


@dataclass
class Column:
    """Scores of one kind of continuation.

    values: {score: {key: value}}; None where an utterance has none. text_nats: {key: (nats,
    tokens)} of its transcripts by GSLM's definition. slamkit: {key: nats per token} by SlamKit's.
    unscored: {score: {why: how many continuations}}.
    """

    values: dict[str, dict[str, float | None]] = field(default_factory=dict)
    text_nats: dict[str, tuple[float, int]] = field(default_factory=dict)
    slamkit: dict[str, float] = field(default_factory=dict)
    unscored: dict[str, Counter[str]] = field(default_factory=dict)

    def put(self, name: str, key: str, values: Iterable[float | Unscored | None]) -> None:
        """An utterance's score: the mean over its continuations that have one."""
        known = []
        for value in values:
            if isinstance(value, Unscored):
                self.miss(name, str(value))
            elif value is not None:
                known.append(value)
        self.values.setdefault(name, {})[key] = float(np.mean(known)) if known else None

    def miss(self, name: str, why: str) -> None:
        """A continuation that does not have this score."""
        self.unscored.setdefault(name, Counter())[why] += 1


@dataclass(frozen=True)
class Kept:
    """What self-BLEU needs of an utterance: by column, one continuation's tokens and its words."""

    key: str
    tokens: Mapping[str, np.ndarray]
    words: Mapping[str, list[str]]


@dataclass(frozen=True)
class Heard:
    """An utterance's sound at 16 kHz. waves: by column. loudest: the power of its loudest frame, in
    prompt and real continuation.
    """

    prompt: np.ndarray
    waves: Mapping[str, list[np.ndarray]]
    loudest: float

    @classmethod
    def of(cls, sound: ContinuedSound) -> "Heard":
        """Resampled."""
        prompt, real, *drawn = (
            np.concatenate(list(resample([wave], sound.sample_rate)))
            for wave in (sound.prompt, sound.real, *sound.drawn)
        )
        loudest = max(loudest_frame(wave, SAMPLE_RATE) for wave in (prompt, real))
        return cls(prompt, {MODEL: drawn, REAL: [real]}, loudest)


class ContinuationScores:
    """Both columns, and the utterances drawn for self-BLEU.

    columns: {MODEL: Column, REAL: Column}. kept: at most `most` utterances, each with the same
    chance; of several continuations the first. count: utterances so far.
    """

    def __init__(
        self, models: ScoreModels | None, reader: TextPerplexity | None, *, most: int, seed: int
    ) -> None:
        """models: None without sound. reader: of transcripts, where models has a recogniser."""
        self.models, self.reader, self.most = models, reader, most
        self.columns = {MODEL: Column(), REAL: Column()}
        self.kept: list[Kept] = []
        self.count, self._random = 0, random.Random(seed)

    def add(self, batch: Sequence[Continued], sounds: Sequence[ContinuedSound]) -> None:
        """Some utterances. sounds: of each; empty if there is no sound."""
        heard = [Heard.of(sound) for sound in sounds]
        for continued, sound in zip(batch, heard):
            self._put_sound(continued.opening.key, sound)
        texts = self._texts(heard)
        for place, continued in enumerate(batch):
            key, real = continued.opening.key, continued.opening.real
            tokens = {MODEL: continued.drawn, REAL: [real]}
            for name, column in self.columns.items():
                column.put("auto_bleu_2", key, map(auto_bleu, tokens[name]))
                column.put("same_as_before", key, map(same_as_before, tokens[name]))
                column.put("repeated_4grams", key, map(repeated_ngrams, tokens[name]))
            words = {
                name: self._put_texts(self.columns[name], key, said)
                for name, said in (texts[place] if texts else {}).items()
            }
            self._keep(Kept(key, {name: parts[0] for name, parts in tokens.items()}, words))

    def _put_sound(self, key: str, sound: Heard) -> None:
        models = self.models
        for name, column in self.columns.items():
            waves = sound.waves[name]
            pauses = [silence(wave, SAMPLE_RATE, sound.loudest) for wave in waves]
            column.put("silence", key, [share for share, _ in pauses])
            column.put("longest_pause", key, [seconds for _, seconds in pauses])
            if models and models.dnsmos:
                opinions = [_scored(dnsmos, wave) for wave in waves]
                for part in DNSMOS:
                    values = [o if isinstance(o, Unscored) else o[part] for o in opinions]
                    column.put(f"dnsmos_{part}", key, values)
            if models and models.utmos:
                column.put("utmos", key, [_scored(models.utmos.score, wave) for wave in waves])
        if models and models.voices:
            waves = [wave for name in self.columns for wave in sound.waves[name]]
            prompt, *voices = models.voices.embeddings([sound.prompt, *waves])
            voice = iter(voices)
            for name, column in self.columns.items():
                alike = [_scored(_alike, prompt, next(voice)) for _ in sound.waves[name]]
                column.put("speaker_similarity", key, alike)

    def _texts(self, heard: Sequence[Heard]) -> list[dict[str, list[str]]]:
        """Transcripts of each utterance's continuations, by column; [] without a recogniser."""
        if not heard or not self.models or not self.models.recognizer:
            return []
        waves = [wave for one in heard for name in self.columns for wave in one.waves[name]]
        texts = iter(self.models.recognizer.texts(waves))
        return [
            {name: [next(texts) for _ in one.waves[name]] for name in self.columns} for one in heard
        ]

    def _put_texts(self, column: Column, key: str, texts: list[str]) -> list[str]:
        """Scores of an utterance's transcripts; gives the words of the first."""
        assert self.models and self.models.recognizer
        words = [self.models.recognizer.normalize(text).split() for text in texts]
        bleus = [
            auto_bleu(numbers) if len(numbers) else Unscored(NO_WORDS)
            for numbers in word_numbers(words)
        ]
        column.put("auto_bleu_2_words", key, bleus)
        if self.reader:
            known = [text for text, each in zip(texts, words) if each]
            self._put_likelihoods(column, key, known, wordless=len(texts) - len(known))
        return words[0]

    def _put_likelihoods(
        self, column: Column, key: str, texts: list[str], *, wordless: int
    ) -> None:
        assert self.reader
        scores = self.reader.score(texts)
        gslm = [score.gslm for score in scores if score.gslm]
        slamkit = [score.slamkit.per_token for score in scores if score.slamkit]
        too_long = sum(score.too_long for score in scores)
        column.put("gen_ppl", key, [nats.perplexity for nats in gslm])
        for name, scored in (("gen_ppl", gslm), ("gen_ppl_slamkit", slamkit)):
            short = len(scores) - too_long - len(scored)
            for why, times in ((NO_WORDS, wordless), (TOO_LONG, too_long), (ONE_TOKEN, short)):
                for _ in range(times):
                    column.miss(name, why)
        if gslm:
            nats, tokens = sum(n.nats for n in gslm), sum(n.tokens for n in gslm)
            column.text_nats[key] = nats, tokens
        if slamkit:
            column.slamkit[key] = float(np.mean(slamkit))

    def _keep(self, one: Kept) -> None:
        """Reservoir sampling: each of the utterances so far is kept with the same chance."""
        self.count += 1
        if len(self.kept) < self.most:
            self.kept.append(one)
        elif (place := self._random.randrange(self.count)) < self.most:
            self.kept[place] = one


def _alike(prompt: np.ndarray | Unscored, voice: np.ndarray | Unscored) -> float:
    """Of two voices, in percent, as papers' tables have it. Raises Unscored."""
    return 100 * similarity(prompt, voice)


def _scored(score: Callable[..., Any], *sounds: object) -> Any:
    """A score, or why there is none."""
    try:
        return score(*sounds)
    except Unscored as error:
        return error


def word_numbers(texts: Sequence[list[str]]) -> list[np.ndarray]:
    """Each text's words as numbers, (T,) int64; a word has one number in all of them."""
    numbers: dict[str, int] = {}
    return [
        np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)
        for words in texts
    ]
