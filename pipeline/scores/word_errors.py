"""Errors in words and characters between two texts, counted by jiwer, as papers on codecs do.

The differential word error rate (dWER, as in FocalCodec's paper, arXiv 2502.04465, 4.3) takes what
a recogniser hears in the original as the reference, and what it hears in the resynthesis as the
hypothesis: no transcript is needed. Both are normalised as Whisper's texts are (arXiv 2212.04356,
appendix C). A rate is the sum of errors over the sum of words of all utterances.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pipeline.scores.unscored import needed
from tokenizer.errors import UsageError, one_line

# Where Whisper's own tokenizer has its table of British and American spellings.
SPELLINGS = "normalizer.json"
ENGLISH = ("en", "english")


class ErrorCount(NamedTuple):
    """errors: substitutions, deletions and insertions. words: of the reference, or characters."""

    errors: int
    words: int


@dataclass(frozen=True)
class TextNormalizer:
    """Whisper's normaliser of texts; call it with one. name: what it is, for a record."""

    function: Callable[[str], str]
    name: str

    def __call__(self, text: str) -> str:
        """Lower case, no punctuation, numbers in digits, one spelling of a word."""
        return " ".join(self.function(text).split())


def text_normalizer(language: str = "en", folder: Path | None = None) -> TextNormalizer:
    """Whisper's normaliser for English, and its basic one for every other language.

    folder: of a recogniser; the table of spellings is read from it where it has one (Whisper's
    folders do), else from the package whisper-normalizer. With neither, British and American
    spellings stay two words, and the name says so. Raises UsageError for a broken table.
    """
    needed("transformers", "transformers")
    from transformers.models.whisper.english_normalizer import (
        BasicTextNormalizer,
        EnglishTextNormalizer,
    )

    if language.lower() not in ENGLISH:
        return TextNormalizer(BasicTextNormalizer(), "Whisper's basic normaliser")
    table, source = _spellings(folder)
    return TextNormalizer(
        EnglishTextNormalizer(table), f"Whisper's English normaliser, spellings {source}"
    )


def check_english(language: str, recogniser: str) -> None:
    """Raises UsageError for another language, of a recogniser that knows English alone."""
    if language.lower() not in ENGLISH:
        raise UsageError(
            f"{recogniser} knows English alone",
            "give a recogniser of that language",
            value=language,
            argument="language",
        )


def word_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Errors in words, of texts that are normalised already."""
    import jiwer

    if not reference:
        return ErrorCount(len(hypothesis.split()), 0)
    counted = jiwer.process_words(reference, hypothesis)
    errors = counted.substitutions + counted.deletions + counted.insertions
    return ErrorCount(errors, counted.hits + counted.substitutions + counted.deletions)


def character_errors(reference: str, hypothesis: str) -> ErrorCount:
    """Errors in characters, spaces included, of texts that are normalised already."""
    import jiwer

    if not reference:
        return ErrorCount(len(hypothesis), 0)
    counted = jiwer.process_characters(reference, hypothesis)
    errors = counted.substitutions + counted.deletions + counted.insertions
    return ErrorCount(errors, counted.hits + counted.substitutions + counted.deletions)


def _spellings(folder: Path | None) -> tuple[dict[str, str], str]:
    """The table, and where it is from."""
    if folder and (folder / SPELLINGS).is_file():
        return _read_table((folder / SPELLINGS).read_bytes(), SPELLINGS), "of the recogniser"
    if find_spec("whisper_normalizer"):
        file = files("whisper_normalizer") / "normalizers" / "english.json"
        name = needed("whisper_normalizer", "whisper-normalizer")
        return _read_table(file.read_bytes(), name), f"of {name}"
    return {}, "left as they are"


def _read_table(content: bytes, name: str) -> dict[str, str]:
    try:
        table = json.loads(content)
        if not isinstance(table, dict):
            raise ValueError("it is no JSON object")
        return {str(word): str(other) for word, other in table.items()}
    except ValueError as error:
        raise UsageError(
            f"its {name} cannot be read: {one_line(error)}",
            "copy it again from the recogniser's own folder",
        ) from error
