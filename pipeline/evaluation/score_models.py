"""Which scores of sound are taken, and the models and packages that take them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from pipeline.scores import intelligibility, naturalness
from pipeline.scores.pitch import PitchTracker
from pipeline.scores.unscored import needed
from tokenizer.errors import UsageError

# The scores, and (module, package) of each. Those of NAMED need a model that has to be named.
PACKAGES = {
    "dwer": ("jiwer", "jiwer"),
    "utmos": ("torch", "torch"),
    "dnsmos": ("speechmos", "speechmos"),
    "similarity": ("resemblyzer", "Resemblyzer"),
    "pitch": ("swift_f0", "swift-f0"),
    "stoi": ("pystoi", "pystoi"),
    "pesq": ("pesq", "pesq"),
}
NAMED = {"dwer": "asr", "utmos": "utmos"}


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What to score, and by which models.

    scores: of PACKAGES. asr, speaker_model, utmos: folders, URLs or hub ids; without a
    speaker_model Resemblyzer compares voices. language: of the speech. device: "cpu" or "cuda".
    """

    scores: tuple[str, ...]
    asr: str | None = None
    language: str = "en"
    speaker_model: str | None = None
    utmos: str | None = None
    device: str = "cpu"


def default_scores(
    asr: str | None, speaker_model: str | None, utmos: str | None
) -> tuple[list[str], list[str]]:
    """(scores that can be taken, packages that are missing for others), by the models given."""
    given = {"dwer": asr, "utmos": utmos}
    wanted = [name for name in PACKAGES if given.get(name, True)]
    missing = [
        name
        for name in wanted
        if find_spec(PACKAGES[name][0]) is None and not (name == "similarity" and speaker_model)
    ]
    packages = [PACKAGES[name][1] for name in missing]
    return [name for name in wanted if name not in missing], packages


class ScoreModels:
    """The models of the scores that are wanted. names: {score: name and version of its model}.

    Without one that is wanted, its attribute is None.
    """

    def __init__(self, settings: ScoreSettings) -> None:
        """Opens them. Raises UsageError for a model that cannot be used or a missing package."""
        wanted, self.names = set(settings.scores), dict[str, str]()
        _check(settings)
        self.dnsmos, self.stoi, self.pesq = (name in wanted for name in ("dnsmos", "stoi", "pesq"))
        if self.dnsmos:
            names = (f"dnsmos_{part}" for part in naturalness.DNSMOS)
            self.names |= dict.fromkeys(names, naturalness.dnsmos_name())
        if self.stoi:
            self.names["stoi"] = intelligibility.stoi_name()
        if self.pesq:
            self.names["pesq"] = intelligibility.pesq_name()
        self.pitch = PitchTracker() if "pitch" in wanted else None
        if self.pitch:
            self.names |= dict.fromkeys(("f0_correlation", "voicing_error"), self.pitch.name)
        self.utmos = self.voices = self.recognizer = None
        if "utmos" in wanted:
            with _of_argument("utmos"):
                self.utmos = naturalness.UTMOS(settings.utmos or "", settings.device)
            self.names["utmos"] = self.utmos.name
        if "similarity" in wanted:
            from pipeline.scores.speakers import speaker_model

            with _of_argument("speaker_model"):
                self.voices = speaker_model(settings.speaker_model, settings.device)
            self.names["speaker_similarity"] = self.voices.name
        if "dwer" in wanted:
            from pipeline.scores.recognition import Recognizer

            with _of_argument("asr"):
                self.recognizer = Recognizer(
                    settings.asr or "", device=settings.device, language=settings.language
                )
            normalizer, counter = self.recognizer.normalize.name, needed("jiwer", "jiwer")
            name = f"{self.recognizer.name}; {normalizer}; {counter}"
            self.names |= dict.fromkeys(("dwer", "dcer", "wer"), name)


def _check(settings: ScoreSettings) -> None:
    """Raises UsageError for a score without its model, and for one without its package."""
    for name in settings.scores:
        model = NAMED.get(name)
        if model and not getattr(settings, model):
            raise UsageError(
                "its model has to be named",
                f"give {model}",
                value=name,
                argument="scores",
                mentions=(model,),
            )
        if name == "similarity" and settings.speaker_model:
            continue
        try:
            needed(*PACKAGES[name])
        except UsageError as error:
            error.argument, error.value = "scores", name
            raise


@contextmanager
def _of_argument(name: str) -> Iterator[None]:
    """A UsageError of the body is about this field, unless it names another."""
    try:
        yield
    except UsageError as error:
        error.argument = error.argument or name
        raise
