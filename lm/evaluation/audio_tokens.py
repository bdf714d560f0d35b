"""Audio files → tokens, in this process: for test sets of minutes or hours, not for a data lake."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lm.config import LMError
from tokenizer.audio.decoding import AudioError, read_utterance
from tokenizer.audio.windows import Windowing
from tokenizer.tokenizer import Tokenizer

# As jobs/tokenize.py cuts unless told otherwise.
WINDOW_SECONDS, CONTEXT_SECONDS = 30.0, 2.0
FILES_AT_ONCE = 16


def audio_tokens(
    paths: Sequence[Path], tokenizer: Tokenizer, show: Callable[[int], object] | None = None
) -> Iterator[np.ndarray]:
    """(T,) tokens of each file, in order, as jobs/tokenize.py makes them.

    show: called with the number of files just done. Raises LMError that names a file which cannot
    be tokenized, with the reason.
    """
    windowing = tokenizer.windowing(WINDOW_SECONDS, CONTEXT_SECONDS)
    for start in range(0, len(paths), FILES_AT_ONCE):
        some = paths[start : start + FILES_AT_ONCE]
        waves, kept = [], []
        for path in some:
            plan, cut = _windows(path, windowing)
            waves += cut
            kept.append([window.kept_tokens(tokenizer.frames_per_token) for window in plan])
        made = iter(tokenizer.encode_windows(waves))
        for slices in kept:
            yield np.concatenate([next(made)[own] for own in slices])
        if show:
            show(len(some))


def _windows(path: Path, windowing: Windowing) -> tuple[list, list[np.ndarray]]:
    try:
        with path.open("rb") as file:
            utterance = read_utterance(file, windowing.samples)
            plan = windowing.plan(utterance.num_frames)
            return plan, list(windowing.cut(utterance, plan))
    except AudioError as error:
        raise LMError(f"{path.parent.name}/{path.name} cannot be tokenized: {error}") from error
    except OSError as error:
        raise LMError(f"{path.name} cannot be read: {error.strerror or error}") from error
