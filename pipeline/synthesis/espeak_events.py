"""Synthesise speech with libespeak-ng and print when each phoneme starts.

The command espeak-ng does not print these times. Run this file as a process of its own for each
batch: the library keeps the state of its noise and vibrato between utterances, so that only a fresh
process gives the same samples again. It imports nothing of the project and starts fast.

usage: espeak_events.py FOLDER < REQUESTS
REQUESTS are JSON lines [voice, words per minute, pitch 0-100, text]. Request i makes FOLDER/i.pcm
(16-bit mono), and prints a JSON line [sample rate, [[phoneme, first sample], ...]], or null if the
voice does not exist.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

RETRIEVE, PHONEME_EVENTS, UTF8, RATE, PITCH = 2, 1, 1, 1, 3
PHONEME = 7


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    )


def main() -> None:
    """Synthesise all requests."""
    folder = Path(sys.argv[1])
    library = ctypes.CDLL("libespeak-ng.so.1")
    sample_rate = library.espeak_Initialize(RETRIEVE, 200, None, PHONEME_EVENTS)
    if sample_rate <= 0:
        sys.exit("libespeak-ng does not start: is espeak-ng-data installed?")
    pcm, phones = bytearray(), []

    # samples: the address of `count` int16. events: a pointer that ends with an event of type 0.
    def take(samples: int | None, count: int, events: Any) -> int:
        if samples:
            pcm.extend(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type:
            if events[index].type == PHONEME:
                name = events[index].string.decode(errors="replace")
                phones.append([name, events[index].sample])
            index += 1
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))
    callback = kind(take)
    library.espeak_SetSynthCallback(callback)
    for number, line in enumerate(sys.stdin):
        voice, speed, pitch, text = json.loads(line)
        pcm.clear()
        phones.clear()
        if library.espeak_SetVoiceByName(voice.encode()):
            print("null")
            continue
        library.espeak_SetParameter(RATE, speed, 0)
        library.espeak_SetParameter(PITCH, pitch, 0)
        data = text.encode()
        library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, UTF8, None, None)
        library.espeak_Synchronize()
        (folder / f"{number}.pcm").write_bytes(pcm)
        print(json.dumps([sample_rate, phones]))


if __name__ == "__main__":
    main()
