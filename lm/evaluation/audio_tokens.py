"""Audio files → tokens, in this process: for test sets of minutes or hours."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lm.config import LMError
from tokenizer.audio.decoding import read_utterance
from tokenizer.audio.reasons import AudioError
from tokenizer.audio.windows import Window, Windowing
from tokenizer.tokenizer import Tokenizer

FILES_AT_ONCE = 16


def audio_tokens(
    paths: Sequence[Path], tokenizer: Tokenizer, show: Callable[[int], object] | None = None
) -> Iterator[np.ndarray]:
    """(T,) tokens of each file, in order, as jobs/tokenize.py with its default windows.

    show: called with the number of files just done. Raises LMError with the name of a file that
    cannot be tokenized, and the reason.
    """
    windowing = tokenizer.windowing()
    for start in range(0, len(paths), FILES_AT_ONCE):
        batch = paths[start : start + FILES_AT_ONCE]
        waves, kept_slices = [], []
        for path in batch:
            plan, file_waves = _windows(path, windowing)
            waves += file_waves
            kept_slices.append([window.kept_tokens(tokenizer.frames_per_token) for window in plan])
        tokens = iter(tokenizer.encode_windows(waves))
        for slices in kept_slices:
            yield np.concatenate([next(tokens)[kept] for kept in slices])
        if show:
            show(len(batch))


def _windows(path: Path, windowing: Windowing) -> tuple[list[Window], list[np.ndarray]]:
    """The windows of a file, and their waveforms."""
    try:
        with path.open("rb") as file:
            utterance = read_utterance(file, windowing.samples)
            plan = windowing.plan_samples(utterance.samples)
            return plan, list(windowing.cut(utterance, plan))
    except AudioError as error:
        raise LMError(f"{path.parent.name}/{path.name} cannot be tokenized: {error}") from error
    except OSError as error:
        raise LMError(f"{path.name} cannot be read: {error.strerror or error}") from error
