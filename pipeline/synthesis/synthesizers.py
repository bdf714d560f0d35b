"""Text → synthetic speech: one function for each engine, from a batch of requests to a batch."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.evaluation.phone_labels import SILENCE
from pipeline.synthesis.alignment import espeak_phones, radio_phones
from pipeline.synthesis.voices import FESTIVAL_VOICES, Voice

# A synthesiser may hang on a sentence. A batch of hundreds takes a minute.
TIMEOUT_S = 600
# Phones that end further than this from the end of the audio are those of other audio. kal16 cuts
# its last pause short by up to 0.15 s.
LATE_S, SHORT_PAUSE_S = 0.05, 0.15
_ENCODINGS = {"cs": "iso-8859-2", "fi": "iso-8859-1", "it": "iso-8859-1", "ca": "iso-8859-1"}


@dataclass(frozen=True)
class SpeechRequest:
    """A text for a voice. rate: relative to the voice's speed; 1.2 is faster. pitch: likewise."""

    voice: Voice
    text: str
    rate: float
    pitch: float


@dataclass
class SyntheticSpeech:
    """The result of a request. signal: (n,) float32 at `rate` Hz.

    phones: (ARPABET phone, end in seconds) over the whole signal, or None if not known.
    """

    request: SpeechRequest
    signal: np.ndarray
    rate: int
    phones: list[tuple[str, float]] | None = None


def speak(requests: list[SpeechRequest], scratch: Path) -> list[SyntheticSpeech]:
    """Synthesise requests of one family, in order, without those at which the engine fails.

    Requests for festival must be of one voice. scratch: a folder for temporary files.
    """
    family = requests[0].voice.family
    if family == "flite":
        return [speech for request in requests if (speech := _flite(request, scratch))]
    return (_espeak if family == "espeak-ng" else _festival)(requests, scratch)


def _run(command: list[str], stdin: str = "") -> str:
    """What a command prints, up to its end or the timeout."""
    try:
        done = subprocess.run(
            command,
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace")
    return done.stdout.decode(errors="replace")


def _read_wav(path: Path) -> tuple[np.ndarray, int] | None:
    try:
        signal, rate = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.LibsndfileError):
        return None
    return signal, rate


def _aligned(phones: list | None, signal: np.ndarray, rate: int) -> list | None:
    """The phones if they end where the audio does, else None."""
    if not phones:
        return None
    name, end = phones[-1]
    late = end - len(signal) / rate
    latest = SHORT_PAUSE_S if name == SILENCE else LATE_S
    return phones if -LATE_S < late < latest else None


def _flite(request: SpeechRequest, scratch: Path) -> SyntheticSpeech | None:
    wav = scratch / "flite.wav"
    wav.unlink(missing_ok=True)
    hz = request.voice.pitch_hz * request.pitch
    features = [f"duration_stretch={1 / request.rate:.3f}", f"int_f0_target_mean={hz:.1f}"]
    options = [part for feature in features for part in ("--setf", feature)]
    # -psdur prints a line for each utterance, with times from the start of that utterance. Phones
    # are used only if the request is a single utterance.
    output = ["-psdur", "-t", request.text, "-o", str(wav)]
    printed = _run(["flite", "-voice", request.voice.name, *options, *output])
    audio = _read_wav(wav)
    if audio is None:
        return None
    lines = [line for line in printed.splitlines() if ":" in line]
    phones = radio_phones(_segments(lines[0])) if len(lines) == 1 else None
    return SyntheticSpeech(request, *audio, phones=_aligned(phones, *audio))


def _segments(line: str) -> list[tuple[str, float]]:
    """NAME:END NAME:END ... → (name, end in seconds)."""
    pairs = (part.rpartition(":") for part in line.split())
    return [(name, float(end)) for name, _, end in pairs]


def _festival(requests: list[SpeechRequest], scratch: Path) -> list[SyntheticSpeech]:
    """All requests in one process, as loading a voice takes longer than a sentence."""
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
    lines = (line.partition("|") for line in printed.splitlines() if "|" in line)
    segments = {number: rest for number, _, rest in lines}
    speech = []
    for number, request in enumerate(requests):
        audio = _read_wav(scratch / f"{number}.wav")
        # If its line is missing, the utterance may have been cut off in the middle.
        if audio is None or str(number) not in segments:
            continue
        phones = None
        if voice.language == "en":
            phones = radio_phones(_segments(segments[str(number)]))
        speech.append(SyntheticSpeech(request, *audio, phones=_aligned(phones, *audio)))
    return speech


def _espeak(requests: list[SpeechRequest], scratch: Path) -> list[SyntheticSpeech]:
    lines = []
    for request in requests:
        speed, pitch = round(175 * request.rate), round(50 + 100 * math.log2(request.pitch))
        lines.append(json.dumps([request.voice.name, speed, min(99, max(0, pitch)), request.text]))
    # -I keeps the script's folder out of sys.path.
    program = [sys.executable, "-I", str(Path(__file__).parent / "espeak_events.py"), str(scratch)]
    speech = []
    for number, line in enumerate(_run(program, "\n".join(lines)).splitlines()):
        answer, request = json.loads(line), requests[number]
        if answer is None:
            continue
        rate, events = answer
        signal = np.fromfile(scratch / f"{number}.pcm", "<i2").astype(np.float32) / 32768
        phones = None
        if request.voice.language == "en":
            phones = espeak_phones(events, rate, len(signal) / rate)
        speech.append(SyntheticSpeech(request, signal, rate=rate, phones=phones))
    return speech


def installed(voice: Voice) -> bool:
    """Whether a voice is installed. Only festival's voices come apart from their engine."""
    if voice.family.startswith("festival"):
        return bool(list(FESTIVAL_VOICES.glob(f"*/{voice.name}")))
    return True
