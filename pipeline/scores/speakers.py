"""How alike two voices are: the cosine of their speaker embeddings.

Resemblyzer (GE2E, arXiv 1710.10467) comes with its weights. FocalCodec's paper (arXiv 2502.04465)
uses x-vectors of WavLM (microsoft/wavlm-base-sv on the hub): other values, not to be compared with
Resemblyzer's.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.scores.model_folders import find_model
from pipeline.scores.recognition import takes_padding
from pipeline.scores.unscored import Unscored, needed
from tokenizer.audio.frames import SAMPLE_RATE

X_VECTORS = (
    *("Data2VecAudioForXVector", "UniSpeechSatForXVector", "Wav2Vec2ConformerForXVector"),
    *("Wav2Vec2ForXVector", "WavLMForXVector"),
)
NO_VOICE = "no voice is heard in it"
# Shorter than any x-vector network's time delay layers reach: a fifth of a second.
LEAST_SAMPLES = SAMPLE_RATE // 5


class ResemblyzerVoices:
    """Resemblyzer's encoder. It shortens silences by WebRTC's voice detector first."""

    def __init__(self, device: str = "cpu") -> None:
        """Raises UsageError if the package is not installed."""
        self.name = needed("resemblyzer", "Resemblyzer")
        with warnings.catch_warnings():
            # Its own imports: scipy's old name of a module, and pkg_resources.
            warnings.simplefilter("ignore")
            import resemblyzer
        self.resemblyzer = resemblyzer
        self.encoder = resemblyzer.VoiceEncoder(device, verbose=False)

    def embeddings(self, waves: Sequence[np.ndarray]) -> list[np.ndarray | Unscored]:
        """(256,) of length 1 of each (n,) waveform at 16 kHz, or why there is none."""
        return [self._embedding(wave) for wave in waves]

    def _embedding(self, wave: np.ndarray) -> np.ndarray | Unscored:
        if not np.any(wave):
            return Unscored(NO_VOICE)
        voiced = self.resemblyzer.preprocess_wav(np.asarray(wave, np.float32), SAMPLE_RATE)
        if not len(voiced):
            return Unscored(NO_VOICE)
        return self.encoder.embed_utterance(voiced)


class XVectors:
    """A speaker verification model of transformers, with an x-vector head."""

    def __init__(self, source: str, *, device: str = "cpu", batch_size: int = 8) -> None:
        """source: a folder, a URL or a hub id. batch_size: utterances at once, at most.

        Raises UsageError for a model of another class, and one that does not load.
        """
        from transformers import AutoFeatureExtractor

        version = needed("transformers", "transformers")
        folder = find_model(
            source, "an x-vector model", X_VECTORS, example="microsoft/wavlm-base-sv"
        )
        self.name = f"{folder.name} ({folder.architecture}), {version}"
        self.features = folder.part(AutoFeatureExtractor, "feature extractor")
        self.model, self.device = folder.load(device), device
        self.batch_size = batch_size if takes_padding(self.features) else 1

    @torch.inference_mode()
    def embeddings(self, waves: Sequence[np.ndarray]) -> list[np.ndarray | Unscored]:
        """(D,) of length 1 of each (n,) waveform at 16 kHz, or why there is none."""
        found: list[np.ndarray | Unscored] = [Unscored(NO_VOICE) for _ in waves]
        heard = [
            place for place, wave in enumerate(waves) if len(wave) >= LEAST_SAMPLES and np.any(wave)
        ]
        heard.sort(key=lambda place: len(waves[place]))
        for start in range(0, len(heard), self.batch_size):
            places = heard[start : start + self.batch_size]
            batch = [np.asarray(waves[place], np.float32) for place in places]
            given = self.features(
                batch, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding=True
            )
            made = self.model(**given.to(self.device)).embeddings
            made = torch.nn.functional.normalize(made, dim=-1).cpu().numpy()
            for place, embedding in zip(places, made, strict=True):
                found[place] = embedding
        return found


def speaker_model(source: str | None, device: str = "cpu") -> ResemblyzerVoices | XVectors:
    """Resemblyzer without a source, else the x-vector model that it names."""
    return XVectors(source, device=device) if source else ResemblyzerVoices(device)


def similarity(one: np.ndarray | Unscored, other: np.ndarray | Unscored) -> float:
    """The cosine of two embeddings, from -1 to 1. Raises Unscored where one of them is missing."""
    if isinstance(one, Unscored):
        raise one
    if isinstance(other, Unscored):
        raise other
    return float(np.dot(one, other))
