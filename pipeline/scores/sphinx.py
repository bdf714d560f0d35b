"""PocketSphinx: a recogniser of English whose model comes in its package: nothing is fetched.

Hidden Markov models of phones and a trigram language model, from before neural networks: it errs
several times as often as Whisper. What it hears in a resynthesis and in the original can be
compared; its rates are not those of papers, whose recognisers are better.
"""

import numpy as np

from pipeline.scores.unscored import needed
from pipeline.scores.word_errors import check_english
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.resampling import INT16_STEP

NAME = "pocketsphinx"


class Sphinx:
    """Hears utterances one at a time, on one core. name: the package and its version."""

    def __init__(self, language: str) -> None:
        """Raises UsageError for another language than English, and without the package."""
        self.name = needed("pocketsphinx", NAME)
        check_english(language, NAME)
        from pocketsphinx import Decoder

        self.decoder = Decoder(samprate=SAMPLE_RATE, cmn="batch", loglevel="FATAL")

    def texts(self, waves: list[np.ndarray]) -> list[str]:
        """What is said in each of (n,) float waveforms at 16 kHz; "" where nothing is heard."""
        return [self._text(wave) for wave in waves]

    def _text(self, wave: np.ndarray) -> str:
        samples = np.clip(np.round(wave / INT16_STEP), -32768, 32767).astype(np.int16)
        # What the removal of noise and the mean of the cepstra learnt of utterances before would
        # change the words of this one.
        self.decoder.reinit_feat()
        self.decoder.start_utt()
        self.decoder.process_raw(samples.tobytes(), full_utt=True)
        self.decoder.end_utt()
        heard = self.decoder.hyp()
        return heard.hypstr if heard else ""
