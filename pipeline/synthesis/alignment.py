"""Phone labels of synthetic speech: synthesisers' segments → ARPABET labels of 10 ms."""

import numpy as np

from pipeline.evaluation.phone_labels import SILENCE

FRAME_MS = 10
# The English voices of flite and festival use ARPABET in lower case, and these names besides.
_RADIO = {
    "pau": SILENCE, "ax": "AH", "axr": "ER", "ix": "IH", "ux": "UW", "hv": "HH", "dx": "T",
    "nx": "N", "em": "M", "en": "N", "el": "L", "#": SILENCE,
}  # fmt: skip
_NAMES = """
    AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y
    Z ZH SIL
"""
ARPABET = frozenset(_NAMES.split())
# espeak-ng's phonemes of English. They are the same for all dialects.
_ESPEAK = {
    "_": "SIL", "_:": "SIL", "_!": "SIL", "?": "SIL",
    "a": "AE", "aa": "AE", "a#": "AH", "A:": "AA", "A@": "AA", "0": "AA", "O": "AO", "O:": "AO",
    "O@": "AO", "o@": "AO", "o:": "AO", "O2": "AO", "E": "EH", "e": "EH", "e@": "EH", "E2": "EH",
    "@": "AH", "@2": "AH", "@5": "AH", "@L": "L", "@-": "AH", "3": "ER", "3:": "ER",
    "VR": "ER", "IR": "ER", "V": "AH",
    "I": "IH", "I#": "IH", "I2": "IH", "i": "IY", "i:": "IY", "i@": "IH", "i@3": "IH", "U": "UH",
    "U@": "UH", "u": "UW", "u:": "UW", "aI": "AY", "aI@": "AY", "aI3": "AY", "aI2": "AY",
    "aU": "AW", "aU@": "AW", "eI": "EY", "OI": "OY", "oU": "OW", "o": "OW",
    "b": "B", "d": "D", "D": "DH", "D2": "DH", "dZ": "JH", "f": "F", "g": "G", "h": "HH", "j": "Y",
    "k": "K", "l": "L", "l#": "L", "m": "M", "n": "N", "n2": "N", "n-": "N", "N": "NG", "p": "P",
    "r": "R", "r-": "R", "s": "S", "S": "SH", "t": "T", "t#": "T", "t2": "T", "t[": "TH", "T": "TH",
    "tS": "CH", "v": "V", "w": "W", "w#": "W", "x": "K", "z": "Z", "z#": "Z", "z/2": "Z",
    "Z": "ZH", ";": None,
}  # fmt: skip


def radio_phones(segments: list[tuple[str, float]]) -> list[tuple[str, float]] | None:
    """(name, end in seconds) of flite or festival → (ARPABET, end); None if a name is unknown."""
    phones = []
    for name, end in segments:
        phone = _RADIO.get(name, name.upper())
        if phone not in ARPABET:
            return None
        phones.append((phone, end))
    return phones


def espeak_phones(events: list, rate: int, seconds: float) -> list[tuple[str, float]] | None:
    """[phoneme, first sample] of espeak-ng → (ARPABET, end in seconds); None as in radio_phones.

    The audio before the first phoneme is silence.
    """
    phones = [(SILENCE, events[0][1] / rate)] if events else []
    for (name, _), (_, end) in zip(events, [*events[1:], ["_", seconds * rate]]):
        phone = _ESPEAK.get(name, "")
        if phone == "":
            return None
        # The mark of palatalisation (None) extends the phone before it.
        phones.append((phone or phones[-1][0], end / rate))
    return phones or None


def shift_phones(
    phones: list[tuple[str, float]], factor: float, start: float
) -> list[tuple[str, float]]:
    """Phones of audio that is played `factor` times as fast and then loses its first `start` s."""
    return [(phone, end / factor - start) for phone, end in phones]


def frame_labels(phones: list[tuple[str, float]], seconds: float) -> list[str]:
    """The phone at the centre of each whole frame of 10 ms in `seconds`."""
    count = int(round(seconds * 1000, 3) // FRAME_MS)
    centres = (np.arange(count) + 0.5) * FRAME_MS / 1000
    places = np.searchsorted([end for _, end in phones], centres, side="right")
    names = [phone for phone, _ in phones] + [SILENCE]
    return [names[place] for place in places]
