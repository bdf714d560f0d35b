"""Text and recordings → raw speech: one function an engine, each a batch in and a batch out."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.synthesis.alignment import SILENCE, espeak_phones, radio_phones
from pipeline.synthesis.voices import FESTIVAL_VOICES, Voice

# A synthesiser may hang on a sentence; a batch of hundreds takes a minute.
TIMEOUT_S = 600
# Labels further than this from the audio's end belong to other audio. kal16 cuts its last pause
# short by 0.15 s at most.
LATE_S, SHORT_PAUSE_S = 0.05, 0.15
_ENCODINGS = {"cs": "iso-8859-2", "fi": "iso-8859-1", "it": "iso-8859-1", "ca": "iso-8859-1"}


@dataclass(frozen=True)
class Request:
    """What a voice is to say. rate: 1 is the voice's own speed, 1.2 faster. pitch: 1 is its own."""

    voice: Voice
    text: str
    rate: float
    pitch: float


@dataclass
class Speech:
    """What came of a request. signal: (n,) float32 at `rate` Hz.

    phones: (ARPABET phone, end in seconds) over the whole signal, or None where there are none.
    """

    request: Request
    signal: np.ndarray
    rate: int
    phones: list[tuple[str, float]] | None = None


def speak(requests: list[Request], scratch: Path) -> list[Speech]:
    """Have requests of one family spoken, in order; those an engine fails at are left out.

    festival's must be of one voice. scratch: a folder for temporary files.
    """
    family = requests[0].voice.family
    if family == "flite":
        return [speech for request in requests if (speech := _flite(request, scratch))]
    return (_espeak if family == "espeak-ng" else _festival)(requests, scratch)


def _run(command: list[str], given: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=given.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace")
    return done.stdout.decode(errors="replace")


def _wav(path: Path) -> tuple[np.ndarray, int] | None:
    try:
        signal, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.LibsndfileError):
        return None
    return signal, rate


def _aligned(phones: list | None, signal: np.ndarray, rate: int) -> list | None:
    """The phones, unless they end elsewhere than the audio."""
    if not phones:
        return None
    late = phones[-1][1] - len(signal) / rate
    return (
        phones if -LATE_S < late < (SHORT_PAUSE_S if phones[-1][0] == SILENCE else LATE_S) else None
    )


def _flite(request: Request, scratch: Path) -> Speech | None:
    wav = scratch / "flite.wav"
    wav.unlink(missing_ok=True)
    hz = request.voice.pitch_hz * request.pitch
    features = [f"duration_stretch={1 / request.rate:.3f}", f"int_f0_target_mean={hz:.1f}"]
    options = [part for feature in features for part in ("--setf", feature)]
    # -psdur prints a line for each utterance, with times from its own start: a request is one.
    said = ["-psdur", "-t", request.text, "-o", str(wav)]
    printed = _run(["flite", "-voice", request.voice.name, *options, *said])
    read = _wav(wav)
    if read is None:
        return None
    lines = [line for line in printed.splitlines() if ":" in line]
    phones = radio_phones(_segments(lines[0])) if len(lines) == 1 else None
    return Speech(request, *read, _aligned(phones, *read))


def _segments(line: str) -> list[tuple[str, float]]:
    pairs = (part.rpartition(":") for part in line.split())
    return [(name, float(end)) for name, _, end in pairs]


def _festival(requests: list[Request], scratch: Path) -> list[Speech]:
    """All in one process: loading a voice takes longer than a sentence."""
    voice = requests[0].voice
    program = [f"(voice_{voice.name})"]
    for number, request in enumerate(requests):
        (scratch / f"{number}.wav").unlink(missing_ok=True)
        text = request.text.replace("\\", "").replace('"', "")
        stretch = f"(Parameter.set 'Duration_Stretch {1 / request.rate:.3f})"
        hz = voice.pitch_hz * request.pitch
        pitch = f"""(set! int_lr_params '((target_f0_mean {hz:.1f}) (target_f0_std {hz / 8:.1f})
            (model_f0_mean 170) (model_f0_std 34)))"""
        program.append(
            f"""(unwind-protect (begin {stretch} {pitch if voice.pitch_hz else ""}
            (set! utterance (utt.synth (Utterance Text "{text}")))
            (utt.save.wave utterance "{scratch}/{number}.wav" 'riff)
            (format t "\\n{number}|")
            (mapcar (lambda (s) (format t " %s:%f" (item.name s) (item.feat s "end")))
                (utt.relation.items utterance 'Segment))
            (format t "\\n")) (format t ""))"""
        )
    script = scratch / "say.scm"
    encoding = _ENCODINGS.get(voice.language, "utf-8")
    script.write_bytes("\n".join(program).encode(encoding, errors="ignore"))
    printed = _run(["festival", "--batch", str(script)])
    heads = (line.partition("|") for line in printed.splitlines() if "|" in line)
    segments = {head: rest for head, _, rest in heads}
    spoken = []
    for number, request in enumerate(requests):
        read = _wav(scratch / f"{number}.wav")
        # Without its printed line an utterance may have been cut off in the middle.
        if read is None or str(number) not in segments:
            continue
        phones = None
        if voice.language == "en":
            phones = radio_phones(_segments(segments[str(number)]))
        spoken.append(Speech(request, *read, _aligned(phones, *read)))
    return spoken


def _espeak(requests: list[Request], scratch: Path) -> list[Speech]:
    lines = []
    for request in requests:
        speed, pitch = round(175 * request.rate), round(50 + 100 * math.log2(request.pitch))
        lines.append(json.dumps([request.voice.name, speed, min(99, max(0, pitch)), request.text]))
    # -I: else this file's folder would come first among the places that imports are sought in.
    program = [sys.executable, "-I", str(Path(__file__).parent / "espeak_events.py"), str(scratch)]
    spoken = []
    for number, line in enumerate(_run(program, "\n".join(lines)).splitlines()):
        answer, request = json.loads(line), requests[number]
        if answer is None:
            continue
        rate, events = answer
        signal = np.fromfile(scratch / f"{number}.pcm", "<i2").astype(np.float32) / 32768
        phones = None
        if request.voice.language == "en":
            phones = espeak_phones(events, rate, len(signal) / rate)
        spoken.append(Speech(request, signal, rate=rate, phones=phones))
    return spoken


def installed(voice: Voice) -> bool:
    """Whether a festival voice is there; the other engines bring theirs."""
    if voice.family.startswith("festival"):
        return bool(list(FESTIVAL_VOICES.glob(f"*/{voice.name}")))
    return True
