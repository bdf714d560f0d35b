"""Audio shards → figures of what tokens decode to: features and speech.

One process and one pass, one utterance at a time: it is for test sets of minutes or hours.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import WavLMModel

from pipeline.cluster.progress import bar
from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.training.levels import raw_form
from tokenizer.audio.augmentation import normalize
from tokenizer.audio.frames import num_frames
from tokenizer.audio.resampling import resample
from tokenizer.audio.windows import Windowing
from tokenizer.codec.decoder import LEVEL
from tokenizer.codec.distillation import UpperLayers
from tokenizer.codec.vocoder_losses import SpectralLoss
from tokenizer.config import MFCCConfig
from tokenizer.encoder.wavlm import WavLM
from tokenizer.errors import UsageError
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer


class FeatureFigures:
    """How far decoded features are from WavLM's features, at the tokenizer's layer and at the top.

    feature_error: squared error over variance; the mean frame has 1. top_cosine: cosine similarity
    of the upper layers' output for decoded and for true features, the mean over frames.
    """

    def __init__(self, files: TokenizerFiles, folder: Path) -> None:
        """folder: the WavLM that the tokenizer was made from.

        For a causal tokenizer, this is the bidirectional WavLM that its encoder was distilled from.
        Raises UsageError, or EncoderError, if it is another one.
        """
        encoder = files.encoder
        if isinstance(encoder, MFCCConfig):
            raise UsageError("the tokenizer uses MFCCs, not a WavLM", "leave it out")
        config, weights = read_encoder(folder, encoder.layer)
        if not config.position_bias:
            raise UsageError("it is not a WavLM, and others' upper layers are not measured")
        raw = (
            raw_form(config, weights)[1] if config.normalize and not encoder.normalize else weights
        )
        for name, value in raw.items():
            weight = files.weights.get(f"encoder.{name}")
            if not encoder.causal and (weight is None or not torch.equal(weight, value)):
                raise UsageError(f"it is another WavLM than the tokenizer's ({name} differs)")
        if encoder.hidden_size != config.hidden_size:
            sizes = f"{config.hidden_size} dimensions, not {encoder.hidden_size}"
            raise UsageError(f"its features have {sizes}")
        self.normalize = config.normalize and not encoder.normalize
        self.lower = WavLM(config, weights)
        self.upper = UpperLayers(WavLMModel.from_pretrained(folder), config.layer)
        self.error = self.squares = self.cosine = 0.0
        self.sum, self.frames = torch.zeros(config.hidden_size, dtype=torch.float64), 0

    @torch.inference_mode()
    def add(self, wave: np.ndarray, decoded: np.ndarray) -> None:
        """wave: (n,) as the encoder expects it, without padding. decoded: (T', D), T' >= T."""
        if self.normalize:
            wave = normalize(wave)
        true = self.lower([torch.from_numpy(wave)])[0].float()
        made = torch.from_numpy(decoded[: len(true)])
        self.error += float((made - true).square().sum())
        self.squares += float(true.double().square().sum())
        self.sum += true.double().sum(0)
        made_top, true_top = self.upper(torch.stack([made, true]))
        self.cosine += float(F.cosine_similarity(made_top, true_top, dim=-1).sum())
        self.frames += len(true)

    def figures(self) -> dict[str, float]:
        """Figures of everything that was added."""
        variance = self.squares - float(self.sum.square().sum()) / self.frames
        return {"feature_error": self.error / variance, "top_cosine": self.cosine / self.frames}


class SoundFigures:
    """How far resynthesised speech is from the original, both at 16 kHz.

    Speech of a vocoder at another rate is resampled first: what it has above 8 kHz is not measured.
    log_mel_distance: mean absolute difference of log mel magnitudes, in nepers, at four window
    lengths (SpectralLoss), with both at one level. tokens_back: share of tokens that stay the same
    when the resynthesised speech is tokenized.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.spectra = tokenizer, SpectralLoss()
        self.distance, self.same, self.tokens, self.utterances = 0.0, 0, 0, 0

    @torch.inference_mode()
    def add(self, wave: np.ndarray, tokens: np.ndarray) -> None:
        """wave: (n,) at any level. tokens: (T,) of the same speech."""
        decoded = self.tokenizer.decode(tokens)
        rate = self.tokenizer.output_sample_rate
        made = np.concatenate(list(resample([decoded], rate)))
        true = wave[: len(made)]
        true = LEVEL * (true - true.mean()) / true.std().clip(1e-7)
        pair = [torch.from_numpy(x[None, : len(true)].astype(np.float32)) for x in (made, true)]
        self.distance += float(self.spectra(*pair)[0])
        self.utterances += 1
        again = self.tokenizer.encode(made)
        self.same += int((again[: len(tokens)] == tokens[: len(again)]).sum())
        self.tokens += len(tokens)

    def figures(self) -> dict[str, float]:
        """Figures of everything that was added."""
        return {
            "log_mel_distance": self.distance / self.utterances,
            "tokens_back": self.same / self.tokens,
        }


def decoding_figures(
    shards: list[Shard],
    files: TokenizerFiles,
    windowing: Windowing,
    features: FeatureFigures | None,
) -> dict[str, float]:
    """Figures over the first window of every utterance. {} if there is nothing to measure.

    features: an empty one, if they are to be measured. Speech is measured if the tokenizer has a
    vocoder.
    """
    tokenizer = Tokenizer(files)
    sound = SoundFigures(tokenizer) if files.vocoder else None
    measured = [part for part in (features, sound) if part]
    if not measured:
        return {}
    with bar("decoded", "utterances") as progress:
        for shard in shards:
            with open_shard(shard) as stream:
                for _, utterance, _ in read_utterances(stream, windowing.samples):
                    if utterance is None:
                        continue
                    plan = windowing.plan_samples(utterance.samples)
                    padded = next(windowing.cut(utterance, plan))
                    tokens = tokenizer.encode_windows([padded])[0]
                    wave = padded[windowing.left_padding :]
                    if features and num_frames(len(wave)):
                        features.add(wave, tokenizer.decode_features([tokens])[0])
                    if sound:
                        sound.add(wave, tokens)
                    progress.update()
    figures = {}
    for part in measured:
        figures.update(part.figures())
    return figures
