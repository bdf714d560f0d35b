"""How near speech is to a clean original, sample by sample: STOI and PESQ.

Both compare waveforms, and rate low what a vocoder makes of features alone, however it sounds.
"""

import warnings

import numpy as np

from pipeline.scores.unscored import Unscored, needed
from tokenizer.audio.frames import SAMPLE_RATE

SILENT = "the original is silent"
TOO_LITTLE = "under 0.4 s are louder than silence"
NO_UTTERANCE = "PESQ finds no utterance in it"
TOO_SHORT = "PESQ needs a quarter of a second"


def stoi(original: np.ndarray, made: np.ndarray) -> float:
    """Short-time objective intelligibility (Taal et al., 2011), 0 to 1, by pystoi.

    original, made: (n,) float at 16 kHz; what is longer is cut at its end. Raises Unscored where
    the original is silent, or its frames that are not make no segment of 0.4 s, and ImportError
    without the package.
    """
    from pystoi import stoi as measured

    clean, other = _of_one_length(original, made)
    if not np.any(clean):
        raise Unscored(SILENT)
    with warnings.catch_warnings():
        # pystoi warns, and returns 1e-5.
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return float(measured(clean, other, SAMPLE_RATE))
        except (RuntimeWarning, ValueError) as error:
            raise Unscored(TOO_LITTLE) from error


def pesq_wideband(original: np.ndarray, made: np.ndarray) -> float:
    """PESQ, wideband (ITU-T P.862.2), 1.0 to 4.64, by the package pesq.

    original, made: (n,) float at 16 kHz. Raises Unscored where PESQ refuses: no utterance is found
    in silence. Raises ImportError without the package.
    """
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    clean, other = _of_one_length(original, made)
    if not (np.any(clean) and np.any(other)):
        raise Unscored(NO_UTTERANCE)  # of silence alone the package divides by zero
    try:
        return float(pesq(SAMPLE_RATE, clean, other, "wb"))
    except NoUtterancesError as error:
        raise Unscored(NO_UTTERANCE) from error
    except BufferTooShortError as error:
        raise Unscored(TOO_SHORT) from error


def stoi_name() -> str:
    """The package that measures STOI. Raises UsageError if it is not installed."""
    return needed("pystoi", "pystoi")


def pesq_name() -> str:
    """The package that measures PESQ. Raises UsageError if it is not installed."""
    return f"{needed('pesq', 'pesq')}, wideband"


def _of_one_length(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = min(len(one), len(other))
    if not length:
        raise Unscored(TOO_LITTLE)
    return np.asarray(one[:length], np.float32), np.asarray(other[:length], np.float32)
