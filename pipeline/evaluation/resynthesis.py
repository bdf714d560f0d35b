"""Scores of resynthesised speech beside its original, utterance by utterance, with intervals.

Three kinds of sound: the original; the resynthesis, which is made of tokens; and copies, which the
vocoder makes of features that were not quantised. A score's name is that of the resynthesis; the
names of the others' end in _of_original and _of_copy.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipeline.evaluation.phone_labels import metadata_text
from pipeline.evaluation.score_models import ScoreModels, ScoreSettings
from pipeline.scores.bootstrap import mean_interval, ratio_interval
from pipeline.scores.intelligibility import pesq_wideband, stoi
from pipeline.scores.naturalness import DNSMOS, dnsmos
from pipeline.scores.pitch import f0_correlation, voicing_error
from pipeline.scores.speakers import similarity
from pipeline.scores.unscored import Unscored
from pipeline.scores.word_errors import ErrorCount, character_errors, word_errors

MADE, ORIGINAL, COPY = "", "_of_original", "_of_copy"
# Scores that are a mean over utterances: their unit, and what a measured number is times.
MEANS = {
    "utmos": ("1 to 5", 1.0),
    **{f"dnsmos_{part}": ("1 to 5", 1.0) for part in DNSMOS},
    "speaker_similarity": ("%", 100.0),
    "f0_correlation": ("-1 to 1", 1.0),
    "voicing_error": ("%", 100.0),
    "stoi": ("0 to 1", 1.0),
    "pesq": ("1 to 4.64", 1.0),
}
# Utterances that are scored together.
BATCH = 8
# Fields of a sample's json that hold what was said, and an ending beside its audio.
TRANSCRIPTS, TRANSCRIPT_ENDING = ("text", "transcript", "transcription", "sentence"), "txt"
NO_TRANSCRIPT = "it has no transcript"
CUT = "longer than a window, of which alone there is sound, and the transcript is of it all"


def transcript_of(metadata: object, beside: Mapping[str, bytes]) -> str:
    """What was said, by the sample's json or the text beside its audio; "" where neither says it.

    Text that is not UTF-8 counts as none.
    """
    for name in TRANSCRIPTS:
        if text := metadata_text(metadata, name):
            return text
    try:
        return beside.get(TRANSCRIPT_ENDING, b"").decode().strip()
    except UnicodeDecodeError:
        return ""


@dataclass
class Taken:
    """Scores as files of figures have them.

    scores: {name: value, low, high, count, unit, model}. utterances: {key: {name: value or None}};
    of a ratio, NAME_errors and NAME_words. unscored: {name: {why: how many utterances}}.
    """

    scores: dict[str, dict] = field(default_factory=dict)
    utterances: dict[str, dict[str, float | None]] = field(default_factory=dict)
    unscored: dict[str, dict[str, int]] = field(default_factory=dict)


class ResynthesisScores:
    """Takes scores of utterances as they come; the sound of a few is in memory at a time."""

    def __init__(self, settings: ScoreSettings) -> None:
        """Opens the models. Raises UsageError for one that cannot be used."""
        self.models = ScoreModels(settings)
        self.keys: list[str] = []
        self.means: dict[str, dict[str, float | None]] = defaultdict(dict)
        self.counts: dict[str, dict[str, ErrorCount | None]] = defaultdict(dict)
        self.reasons: dict[str, Counter[str]] = defaultdict(Counter)
        self.batch: dict[str, dict[str, np.ndarray]] = {}
        # What the recogniser heard in each sound, and what was said, by key.
        self.heard: dict[str, dict[str, str]] = {}
        self.transcripts: dict[str, str] = {}
        self.cut: set[str] = set()

    def add(
        self, key: str, sounds: dict[str, np.ndarray], *, transcript: str = "", cut: bool = False
    ) -> None:
        """One utterance. sounds: {MADE, ORIGINAL and maybe COPY: (n,) float at 16 kHz}.

        transcript: what was said, if that is known. cut: whether there is more of it than this.
        """
        self.keys.append(key)
        self.give_transcript(key, transcript)
        if cut:
            self.cut.add(key)
        self.batch[key] = sounds
        if len(self.batch) == BATCH:
            self._score()

    def give_transcript(self, key: str, transcript: str) -> None:
        """What was said in an utterance, where that is known only later."""
        if transcript:
            self.transcripts[key] = transcript

    def taken(self) -> Taken:
        """The scores of all utterances."""
        self._score()
        for key, texts in self.heard.items():
            self._count_words(key, texts)
        made = Taken(utterances={key: {} for key in self.keys})
        for name, values in self.means.items():
            unit, _ = MEANS[_base(name)]
            interval = mean_interval([value for value in values.values() if value is not None])
            made.scores[name] = interval.record(unit, self.models.names[_base(name)])
            for key, value in values.items():
                made.utterances[key][name] = value
        for name, counts in self.counts.items():
            known = np.array([count for count in counts.values() if count is not None])
            interval = ratio_interval(*known.reshape(-1, 2).T).scaled(100)
            made.scores[name] = interval.record("%", self.models.names[_base(name)])
            for key, count in counts.items():
                made.utterances[key][f"{name}_errors"] = count and count.errors
                made.utterances[key][f"{name}_words"] = count and count.words
        made.unscored = {name: dict(counts) for name, counts in self.reasons.items()}
        return made

    def _score(self) -> None:
        """Score what has come, and forget its sound."""
        batch, self.batch = self.batch, {}
        for key, sounds in batch.items():
            for kind, sound in sounds.items():
                self._listen(key, kind, sound)
            self._compare(key, sounds)
        places = [(key, kind) for key, sounds in batch.items() for kind in sounds]
        waves = [batch[key][kind] for key, kind in places]
        if self.models.voices:
            voices = dict(zip(places, self.models.voices.embeddings(waves), strict=True))
            for key, kind in places:
                if kind != ORIGINAL:
                    pair = partial(similarity, voices[key, ORIGINAL], voices[key, kind])
                    self._take(key, f"speaker_similarity{kind}", pair)
        if self.models.recognizer:
            texts = self.models.recognizer.texts(waves)
            for (key, kind), text in zip(places, texts, strict=True):
                heard = self.heard.setdefault(key, {})
                heard[kind] = self.models.recognizer.normalize(text)

    def _listen(self, key: str, kind: str, sound: np.ndarray) -> None:
        """Scores of one sound alone."""
        if self.models.utmos:
            self._take(key, f"utmos{kind}", partial(self.models.utmos.score, sound))
        if self.models.dnsmos:
            values: Mapping[str, float | Unscored]
            try:
                values = dnsmos(sound)
            except Unscored as why:
                values = dict.fromkeys(DNSMOS, why)
            for part, value in values.items():
                self._keep(key, f"dnsmos_{part}{kind}", value)

    def _compare(self, key: str, sounds: dict[str, np.ndarray]) -> None:
        """Scores of sounds beside the original."""
        original, pitch = sounds[ORIGINAL], self.models.pitch
        first = pitch.track(original) if pitch else None
        for kind in sounds.keys() - {ORIGINAL}:
            sound = sounds[kind]
            if self.models.stoi:
                self._take(key, f"stoi{kind}", partial(stoi, original, sound))
            if self.models.pesq:
                self._take(key, f"pesq{kind}", partial(pesq_wideband, original, sound))
            if pitch and first:
                second = pitch.track(sound)
                self._take(key, f"f0_correlation{kind}", partial(f0_correlation, first, second))
                self._take(key, f"voicing_error{kind}", partial(voicing_error, first, second))

    def _count_words(self, key: str, texts: dict[str, str]) -> None:
        """Errors of what was heard. texts: normalised, by kind of sound."""
        assert self.models.recognizer is not None
        said = self.models.recognizer.normalize(self.transcripts.get(key, ""))
        for kind, text in texts.items():
            if kind != ORIGINAL:
                self.counts[f"dwer{kind}"][key] = word_errors(texts[ORIGINAL], text)
                self.counts[f"dcer{kind}"][key] = character_errors(texts[ORIGINAL], text)
            # Where no utterance has a transcript there is no such score.
            if self.transcripts:
                why = CUT if key in self.cut else None if said else NO_TRANSCRIPT
                self.counts[f"wer{kind}"][key] = None if why else word_errors(said, text)
                if why:
                    self.reasons[f"wer{kind}"][why] += 1

    def _take(self, key: str, name: str, measure: Callable[[], float]) -> None:
        try:
            self._keep(key, name, measure())
        except Unscored as why:
            self._keep(key, name, why)

    def _keep(self, key: str, name: str, value: float | Unscored) -> None:
        _, factor = MEANS[_base(name)]
        if isinstance(value, float):
            self.means[name][key] = factor * value
            return
        self.means[name][key] = None
        self.reasons[name][str(value)] += 1


def _base(name: str) -> str:
    """A score's name without the kind of sound."""
    return name.removesuffix(COPY).removesuffix(ORIGINAL)
