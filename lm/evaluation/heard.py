"""Continuations that jobs/generate.py wrote, to listen to: the prompt, and what follows."""

import io

import numpy as np
import soundfile

from lm.continuation import TOKENS_ENDING
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder

MOST_SECONDS = 20
REMEDY = "give the OUTPUT of jobs/generate.py"

# Key, prompt (n,), continuation (n,), both float32, and their sample rate.
Heard = tuple[str, np.ndarray, np.ndarray, int]


def read_continuations(url: str, *, most: int, seed: int) -> tuple[list[Heard], list[str]]:
    """Up to so many continuations drawn by the seed, and notes of those that have no sound.

    A prompt's last seconds are kept, and a continuation's first. Raises UsageError when there is
    none, or a sound is damaged.
    """
    folder = Folder(url, "continuations")
    try:
        keys = folder.names("", f".{TOKENS_ENDING}")
    except Exception as error:  # whatever a store raises, this folder cannot be used
        raise folder.unusable(error) from error
    if not keys:
        raise folder.refused(f"it has no KEY.{TOKENS_ENDING}", REMEDY)
    random = np.random.default_rng(seed)
    chosen = sorted(random.choice(len(keys), min(most, len(keys)), replace=False).tolist())
    heard, silent = [], 0
    for key in (keys[place] for place in chosen):
        try:
            joined, rate = _read(folder, f"{key}.joined.wav")
            continuation, _ = _read(folder, f"{key}.wav")
        except FileNotFoundError:
            silent += 1
            continue
        prompt = joined[: max(0, len(joined) - len(continuation))][-MOST_SECONDS * rate :]
        heard.append((key, prompt, continuation[: MOST_SECONDS * rate], rate))
    return heard, _notes(silent, len(chosen))


def _read(folder: Folder, name: str) -> tuple[np.ndarray, int]:
    data = folder.read_bytes(name)
    try:
        wave, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UsageError(
            f"its {name} is damaged: {error}", REMEDY, value=folder.given, argument="continuations"
        ) from error
    return wave.mean(1), int(rate)


def _notes(silent: int, chosen: int) -> list[str]:
    if not silent:
        return []
    return [f"{silent} of {chosen} continuations have tokens and no sound: there was no vocoder."]
