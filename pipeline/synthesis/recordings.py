"""Recorded speech that Debian packages: telephone prompts, a game's actors, words for children.

A tokenizer trained on synthetic voices alone serves real voices poorly. Recordings of volunteers in
thirty languages move its codes towards real voices.
"""

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from tokenizer.audio.frames import SAMPLE_RATE as RATE

G722_BYTES_A_SECOND = 8000
# Prompts that are tones, silence or the noise of monkeys.
NOT_SPEECH = re.compile(r"(^|/)silence/|beep|\dtone|tt-monkeys\.|confbridge-(join|leave)\.")


@dataclass(frozen=True)
class RecordingSource:
    """Recordings of one person, or of several. pattern: a glob of files below "/"."""

    name: str
    language: str
    gender: str
    pattern: str


_PROMPTS = "usr/share/asterisk/sounds/{}/**/*.g722"
_FILLETS = "usr/share/games/fillets-ng/sound/*/{}/*.ogg"
# Tux Paint's descriptions of stamps, KTuberling's names of toys, and KLettres' letters and
# syllables, with the languages of each half. One volunteer may have recorded for two of these, so
# that a language is in one half only.
_CHILDREN = {
    "tuxpaint": (
        "usr/share/tuxpaint/stamps/**/*_desc_{}.ogg",
        {"a": "ro es el be da lt", "b": "ru fr bg ca nl"},
    ),
    "ktuberling": (
        "usr/share/ktuberling/sounds/{}/*.*",
        {"a": "ro es el da lt uk de gl pt it en", "b": "ru fr ca nl nds sl sv wa fi ga sr"},
    ),
    "klettres": (
        "usr/share/klettres/{}/**/*.ogg",
        {"a": "es da lt uk de pt_BR it he en nb tn", "b": "ru fr ml hu nl nds en_GB ar cs"},
    ),
}


def _children(half: str) -> list[RecordingSource]:
    return [
        RecordingSource(
            f"{game}-{language}", language, gender="several", pattern=pattern.format(language)
        )
        for game, (pattern, languages) in _CHILDREN.items()
        for language in languages[half].split()
    ]


# By half. The speakers within a source with several are not known.
RECORDING_SOURCES = {
    "a": [
        RecordingSource(
            "en_US_f_Allison", "en", gender="f", pattern=_PROMPTS.format("en_US_f_Allison")
        ),
        RecordingSource(
            "es_MX_f_Allison", "es", gender="f", pattern=_PROMPTS.format("es_MX_f_Allison")
        ),
        RecordingSource("fillets-cs", "cs", gender="several", pattern=_FILLETS.format("cs")),
        *_children("a"),
    ],
    "b": [
        RecordingSource("fr_CA_f_June", "fr", gender="f", pattern=_PROMPTS.format("fr_CA_f_June")),
        RecordingSource(
            "it_IT_m_Carlo", "it", gender="m", pattern=_PROMPTS.format("it_IT_m_Carlo")
        ),
        RecordingSource(
            "ru_RU_f_IvrvoiceRU", "ru", gender="f", pattern=_PROMPTS.format("ru_RU_f_IvrvoiceRU")
        ),
        RecordingSource("fillets-nl", "nl", gender="several", pattern=_FILLETS.format("nl")),
        *_children("b"),
    ],
}


@cache  # called twice for each source, and opens every file
def list_recordings(source: RecordingSource) -> list[tuple[str, float]]:
    """(path, seconds) of each recording, in order; empty if the source is not installed."""
    found = []
    for path in sorted(map(str, Path("/").glob(source.pattern))):
        if path.endswith((".ogg", ".wav")):
            found.append((path, soundfile.info(path).duration))
        elif path.endswith(".g722") and not NOT_SPEECH.search(path.partition(f"{source.name}/")[2]):
            found.append((path, Path(path).stat().st_size / G722_BYTES_A_SECOND))
    return found


def decode_recording(path: str) -> np.ndarray:
    """Decode a recording: (n,) float32 at 16 kHz. Empty if ffmpeg cannot read it."""
    if path.endswith(".g722"):
        return _decode_g722(path)
    signal, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(signal.mean(1), rate, RATE)


def _decode_g722(path: str) -> np.ndarray:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "g722", "-i", path]
    done = subprocess.run(
        [*command, "-f", "s16le", "-ac", "1", "-ar", "16000", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return np.frombuffer(done.stdout, "<i2").astype(np.float32) / 32768
