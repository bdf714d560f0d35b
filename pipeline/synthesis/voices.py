"""The voices of synthetic speech: those of Debian's free synthesisers, in two halves.

The halves share no voice. They share no person either: slt and kal are voices of both flite and
festival, and NSK speaks two languages. A model that is trained on one half can therefore be tested
on unseen speakers.
"""

from dataclasses import dataclass
from pathlib import Path

HALVES = ("a", "b")
# Families of voices, with their shares of the synthetic hours. flite has the most natural voices,
# espeak-ng the largest number of them.
SHARES = {"flite": 0.39, "festival": 0.22, "festival-other": 0.08, "espeak-ng": 0.31}
RECORDINGS, GAMES = "recordings", "games"
PACKAGES = {
    "flite": "flite",
    "festival": "festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts",
    "festival-other": (
        "festival festival-hi festival-te festvox-hi-nsk festvox-te-nsk"
        " festvox-italp16k festvox-itapc16k festvox-ca-ona-hts festvox-czech-dita festvox-czech-krb"
        " festvox-czech-machac festvox-czech-ph festvox-ru festvox-suopuhe-lj festvox-suopuhe-mv"
    ),
    "espeak-ng": "espeak-ng",
    RECORDINGS: (
        "ffmpeg asterisk-core-sounds-en-g722 asterisk-core-sounds-es-g722"
        " asterisk-core-sounds-fr-g722 asterisk-core-sounds-it-g722 asterisk-core-sounds-ru-g722"
        " fillets-ng-data-cs fillets-ng-data-nl tuxpaint-stamps-default ktuberling-data"
        " klettres-data"
    ),
    GAMES: "ancient flight-of-the-amazon-queen beneath-a-steel-sky drascula",
}
PROGRAMS = {
    "flite": "flite",
    "festival": "festival",
    "festival-other": "festival",
    "espeak-ng": "espeak-ng",
    RECORDINGS: "ffmpeg",
    GAMES: "ancient",
}
FESTIVAL_VOICES = Path("/usr/share/festival/voices")


@dataclass(frozen=True)
class Voice:
    """One speaker. family: a key of SHARES, RECORDINGS or GAMES. name: the engine's name for it.

    pitch_hz: the voice's mean pitch if the engine takes one in Hz, else 0.
    """

    family: str
    name: str
    language: str
    gender: str
    pitch_hz: float = 0.0

    @property
    def engine(self) -> str:
        """The program that synthesises it, or "recording"."""
        if self.family in (RECORDINGS, GAMES):
            return "recording"
        return self.family.removesuffix("-other")

    @property
    def speaker(self) -> str:
        """A name that is unique among all voices, and has no dot."""
        return f"{self.engine}-{self.name}".replace("+", "-").replace("_", "-").replace(" ", "-")


_FLITE = {
    "a": [("slt", "f", 175.0), ("awb", "m", 130.0)],
    "b": [("rms", "m", 97.0), ("kal16", "m", 105.0)],
}
_FESTIVAL = {
    "a": [("ked_diphone", "m", 105.0), ("cmu_us_slt_arctic_hts", "f", 0.0)],
    "b": [("kal_diphone", "m", 105.0)],
}
_FESTIVAL_OTHER = {
    "a": [
        ("lp_diphone", "it", "f"),
        ("czech_dita", "cs", "f"),
        ("hy_fi_mv_diphone", "fi", "m"),
        ("upc_ca_ona_hts", "ca", "f"),
        ("czech_machac", "cs", "m"),
    ],
    "b": [
        ("msu_ru_nsh_clunits", "ru", "m"),
        ("suo_fi_lj_diphone", "fi", "f"),
        ("hindi_NSK_diphone", "hi", "m"),
        ("pc_diphone", "it", "m"),
        ("czech_krb", "cs", "m"),
        ("telugu_NSK_diphone", "te", "m"),
        ("czech_ph", "cs", "m"),
    ],
}
# espeak-ng 1.51 silently ignores a variant on plain en-gb.
_DIALECTS = ("en-us", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc", "en-gb-x-gbclan")
# A variant changes the voice into that of another person, so the halves have different variants.
# Variants that sound like a machine, a demon or a loudspeaker are left out.
_VARIANTS = {
    "a": (
        ("m1 m3 m5 m7 klatt klatt3 klatt5 adam Alex antonio benjamin Denis ed Gene grandpa", "m"),
        ("Hugo iven john Lee Marco Michael Mike Pablo quincy rob shelby victor", "m"),
        ("f1 f3 f5 Alicia Annie belinda steph steph3 anika whisperf", "f"),
    ),
    "b": (
        ("m2 m4 m6 m8 klatt2 klatt4 Andy boris david Diogo edward Gustave Henrique", "m"),
        ("Jacky iven3 marcelo Mario max miguel norbert paul pedro robert sandro zac croak", "m"),
        ("f2 f4 Andrea aunty linda steph2", "f"),
    ),
}
_OTHER_LANGUAGES = ("es", "fr", "it", "de", "nl", "pl", "pt", "sv", "fi", "cs", "ro", "ru")
_OTHER_VARIANTS = {
    "a": (("m1", "m"), ("f3", "f"), ("m7", "m"), ("f1", "f")),
    "b": (("m4", "m"), ("f4", "f"), ("m6", "m"), ("f2", "f")),
}


def voices(half: str, family: str) -> list[Voice]:
    """All voices of a family (a key of SHARES) in one half. Of espeak-ng: the English ones."""
    if family == "flite":
        return [
            Voice(family, name, language="en", gender=gender, pitch_hz=hz)
            for name, gender, hz in _FLITE[half]
        ]
    if family == "festival":
        return [
            Voice(family, name, language="en", gender=gender, pitch_hz=hz)
            for name, gender, hz in _FESTIVAL[half]
        ]
    if family == "festival-other":
        rows = _FESTIVAL_OTHER[half]
        return [
            Voice(family, name, language=language, gender=gender) for name, language, gender in rows
        ]
    return [
        Voice(family, f"{dialect}+{variant}", language="en", gender=gender)
        for dialect in _DIALECTS
        for names, gender in _VARIANTS[half]
        for variant in names.split()
    ]


def foreign_espeak(half: str) -> list[Voice]:
    """The voices of espeak-ng in one half that speak other languages than English."""
    return [
        Voice("espeak-ng", f"{language}+{variant}", language=language, gender=gender)
        for language in _OTHER_LANGUAGES
        for variant, gender in _OTHER_VARIANTS[half]
    ]
