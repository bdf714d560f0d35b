"""Recorded speech that Debian packages: telephone prompts, and a game's actors."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from pipeline.synthesis.effects import RATE

G722_BYTES_A_SECOND = 8000
# Tones, silences and monkeys.
NOT_SPEECH = re.compile(r"(^|/)silence/|beep|\dtone|tt-monkeys\.|confbridge-(join|leave)\.")


@dataclass(frozen=True)
class Source:
    """Recordings of one person, or of a cast. pattern: a glob of files below "/"."""

    name: str
    language: str
    gender: str
    pattern: str


_PROMPTS = "usr/share/asterisk/sounds/{}/**/*.g722"
_FISH = "usr/share/games/fillets-ng/sound/*/{}/*.ogg"
# By half. Of a cast nobody says who speaks when.
RECORDED = {
    "a": [
        Source("en_US_f_Allison", "en", "f", _PROMPTS.format("en_US_f_Allison")),
        Source("es_MX_f_Allison", "es", "f", _PROMPTS.format("es_MX_f_Allison")),
        Source("fillets-cs", "cs", "several", _FISH.format("cs")),
    ],
    "b": [
        Source("fr_CA_f_June", "fr", "f", _PROMPTS.format("fr_CA_f_June")),
        Source("it_IT_m_Carlo", "it", "m", _PROMPTS.format("it_IT_m_Carlo")),
        Source("ru_RU_f_IvrvoiceRU", "ru", "f", _PROMPTS.format("ru_RU_f_IvrvoiceRU")),
        Source("fillets-nl", "nl", "several", _FISH.format("nl")),
    ],
}


def recordings(source: Source) -> list[tuple[str, float]]:
    """(path, seconds) of each, in order; empty if the source is not installed."""
    found = []
    for path in sorted(map(str, Path("/").glob(source.pattern))):
        if path.endswith(".ogg"):
            found.append((path, soundfile.info(path).duration))
        elif not NOT_SPEECH.search(path.partition(f"{source.name}/")[2]):
            found.append((path, Path(path).stat().st_size / G722_BYTES_A_SECOND))
    return found


def decode(path: str) -> np.ndarray:
    """A recording as (n,) float32 at 16 kHz. Empty if ffmpeg cannot read it."""
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
