"""Sentences to synthesise, from Debian's fortunes and King James Bible and the user's texts."""

import re
import subprocess
from pathlib import Path
from shutil import which

import numpy as np

from tokenizer.errors import UsageError

FORTUNES = Path("/usr/share/games/fortunes")
# Files of drawings, song texts and programs, and of subjects that are unfit for the workplace.
LEFT_OUT = (
    "ascii-art",
    "art",
    "drugs",
    "ethnic",
    "men-women",
    "perl",
    "sex",
    "zippy",
    "translate-me",
)
FEWEST_WORDS, MOST_WORDS = 3, 20
COARSE = re.compile(
    r"\b(fuck|shit|bitch|whor|cunt|dick|piss|nigg|rape|sex|slut|bastard|penis|vagina|harlot|dung)",
    re.I,
)
# Engines read anything else, such as digits, brackets or e-mail addresses, in different ways.
PLAIN = re.compile(r"[A-Za-z][A-Za-z' ,-]*[A-Za-z]")


def english(files: list[str]) -> list[str]:
    """Distinct sentences of 3 to 20 words, in a fixed order, without final punctuation.

    files: text files of the user, whose sentences come first. Raises UsageError when one cannot be
    read, or when there is no text at all.
    """
    texts = [_read(file) for file in files] + _fortunes()
    found = dict.fromkeys(sentence for text in texts for sentence in split(text))
    old = split(_bible())
    # At most as many sentences of the Bible, with its 17th-century English, as of other texts.
    found.update(dict.fromkeys(old[:: max(1, len(old) // max(len(found), 10_000))]))
    if not found:
        raise UsageError(
            "there are no sentences to say",
            "apt-get install fortunes fortunes-min bible-kjv bible-kjv-text, or give a text file",
            value=" ".join(files) or "none",
            argument="text",
        )
    return list(found)


def split(text: str) -> list[str]:
    """The sentences of a text, without those that are too short, too long, or have odd symbols."""
    text = text.replace("\n", " ").replace("’", "'").replace("--", ", ")
    pieces = (" ".join(p.split()).strip(" ,'-\"") for p in re.split(r"[.!?;:\"]+(?=\s|$)", text))
    return [
        p
        for p in pieces
        if PLAIN.fullmatch(p)
        and FEWEST_WORDS <= len(p.split()) <= MOST_WORDS
        and not COARSE.search(p)
        and not re.search(r"[A-Z]{3}|['-]{2}|\b[b-hj-zB-HJ-NP-Z]\b", p)
    ]


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            str(error), "give a UTF-8 text file", value=file, argument="text"
        ) from error


def _fortunes() -> list[str]:
    texts = []
    for path in sorted(FORTUNES.glob("*")):
        if path.suffix or path.name in LEFT_OUT or not path.is_file():
            continue
        for fortune in path.read_text(errors="replace").split("\n%"):
            # An attribution starts with dashes and goes on to the end.
            text = re.split(r"\n\s*--", fortune)[0]
            if "\t" not in text.strip() and "  " not in re.sub(r"([.!?:])  ", r"\1 ", text):
                texts.append(text)
    return texts


def _bible() -> str:
    if not which("bible"):
        return ""
    text = subprocess.run(
        ["bible", "-f", "-l", "10000", "gen1:1-rev22:21"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    ).stdout
    verses = re.findall(r"^\w+:\d+ (.*)$", text, re.M)
    return " ".join(verse.rstrip(" ,") + "." for verse in verses)


_ONSETS = "b d f g k l m n p r s t v z br dr gr kr pl pr st tr"
_VOWELS = {
    "it": "a e i o u a e o ia io",
    "ca": "a e i o u a e à è",
    "cs": "a e i o u y á é í ou",
    "fi": "a e i o u y ä ö aa ee ii uu ai ie uo",
    "de": "a e i o u ei au ie ä ü",
    "fr": "a e i o u ou oi ai eau é an on",
    "pl": "a e i o u y ą ę",
}
# Split at single blanks: each leading blank gives one empty coda.
_CODAS = {"fi": "  n s l", "cs": "  k l t š č"}
_ONSETS_OF = {
    "ru": "б в г д ж з к л м н п р с т ф х ц ч ш тр пр ст",
    "hi": "क ख ग च ज ट ड त द न प ब म य र ल व श स ह",
    "te": "క గ చ జ ట డ త ద న ప బ మ య ర ల వ శ స హ",
}
_VOWELS_OF = {
    "ru": "а е и о у ы я ю",
    "hi": " ा ि ी ु ू े ै ो ौ",
    "te": " ా ి ీ ు ూ ె ే ొ ో",
}


def invented(language: str, rng: np.random.Generator) -> str:
    """A sentence of random words in the alphabet of a language: its sounds without a meaning."""
    onsets = _ONSETS_OF.get(language, _ONSETS).split(" ")
    vowels = _VOWELS_OF.get(language, _VOWELS.get(language, _VOWELS["it"])).split(" ")
    codas = _CODAS.get(language, "" if language in _VOWELS_OF else "   n l r s").split(" ")
    words = []
    for _ in range(rng.integers(5, 13)):
        syllables = [
            str(rng.choice(onsets)) + str(rng.choice(vowels))
            for _ in range(rng.choice([1, 2, 2, 3, 3, 4]))
        ]
        words.append("".join(syllables) + str(rng.choice(codas)))
    if len(words) > 7:
        words[len(words) // 2] += ","
    return " ".join(words)
