"""Audio shards → figures of what tokens can be turned back into: features, and sound.

One process and one pass, utterance by utterance: it is for test sets of minutes or hours.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import WavLMModel

from pipeline.shards.inputs import Shard
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.augmentation import normalize
from tokenizer.audio.windows import Windowing
from tokenizer.codec.decoder import LEVEL
from tokenizer.codec.distillation import UpperLayers
from tokenizer.codec.vocoder_losses import SpectralLoss
from tokenizer.config import EncoderError, MFCCConfig
from tokenizer.encoder.wavlm import WavLM
from tokenizer.errors import UsageError
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer


class FeatureFigures:
    """How far decoded features are from WavLM's, at the layer and at the top.

    feature_error: squared error over variance, 0 to 1 for anything better than the mean frame.
    top_cosine: of what the upper layers make of decoded and of true features, the mean over frames.
    """

    def __init__(self, files: TokenizerFiles, encoder: str, folder: Path) -> None:
        """encoder, folder: the WavLM that the tokenizer was made from. Raises UsageError else.

        Of a causal tokenizer it is the bidirectional one that taught its encoder.
        """
        remedy = "give the WavLM that the tokenizer was made from"
        if isinstance(files.encoder, MFCCConfig):
            raise UsageError(
                "the tokenizer is of MFCCs", "leave it out", value=encoder, argument="encoder"
            )
        try:
            config, weights = read_encoder(folder, files.encoder.layer)
        except EncoderError as error:
            raise UsageError(str(error), remedy, value=encoder, argument="encoder") from error
        own = files.encoder
        for name, value in weights.items():
            weight = files.weights.get(f"encoder.{name}")
            if not own.causal and (weight is None or not torch.equal(weight, value)):
                problem = f"it is another one ({name} differs)"
                raise UsageError(problem, remedy, value=encoder, argument="encoder")
        if own.hidden_size != config.hidden_size:
            problem = f"its features have {config.hidden_size} dimensions, not {own.hidden_size}"
            raise UsageError(problem, remedy, value=encoder, argument="encoder")
        self.normalize = config.normalize and not own.normalize
        self.lower = WavLM(config, weights)
        self.upper = UpperLayers(WavLMModel.from_pretrained(folder), config.layer)
        self.error = self.squares = self.cosine = 0.0
        self.sum, self.frames = torch.zeros(config.hidden_size, dtype=torch.float64), 0

    @torch.inference_mode()
    def add(self, wave: np.ndarray, decoded: np.ndarray) -> None:
        """wave: (n,) as the encoder wants it. decoded: (T', D), T' >= T."""
        if self.normalize:
            wave = normalize(wave)
        true = self.lower([torch.from_numpy(wave)])[0].float()
        decoded = torch.from_numpy(decoded[: len(true)])
        self.error += float((decoded - true).square().sum())
        self.squares += float(true.double().square().sum())
        self.sum += true.double().sum(0)
        top, wanted = self.upper(torch.stack([decoded, true]))
        self.cosine += float(F.cosine_similarity(top, wanted, dim=-1).sum())
        self.frames += len(true)

    def figures(self) -> dict[str, float]:
        """Of all that was added."""
        variance = self.squares - float(self.sum.square().sum()) / self.frames
        return {"feature_error": self.error / variance, "top_cosine": self.cosine / self.frames}


class SoundFigures:
    """How far resynthesised speech is from the original.

    log_mel_distance: mean absolute difference of log mel magnitudes, in nepers, at four window
    lengths (SpectralLoss), both at one level. tokens_back: share of the tokens that are the same
    when the resynthesised speech is tokenized.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.spectra = tokenizer, SpectralLoss()
        self.distance, self.same, self.tokens, self.utterances = 0.0, 0, 0, 0

    @torch.inference_mode()
    def add(self, wave: np.ndarray, tokens: np.ndarray) -> None:
        """wave: (n,) at any level. tokens: (T,) of it."""
        made = self.tokenizer.decode(tokens)
        own = wave[: len(made)]
        own = LEVEL * (own - own.mean()) / own.std().clip(1e-7)
        pair = [torch.from_numpy(each[None, : len(own)].astype(np.float32)) for each in (made, own)]
        self.distance += float(self.spectra(*pair)[0])
        self.utterances += 1
        again = self.tokenizer.encode(made)
        self.same += int((again[: len(tokens)] == tokens[: len(again)]).sum())
        self.tokens += len(tokens)

    def figures(self) -> dict[str, float]:
        """Of all that was added."""
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
    """Over the first window of every utterance. {} where there is nothing to measure.

    features: to be filled, if asked for. Sound is measured of a tokenizer with a vocoder.
    """
    tokenizer = Tokenizer(files)
    sound = SoundFigures(tokenizer) if files.vocoder else None
    asked = [part for part in (features, sound) if part]
    if not asked:
        return {}
    with tqdm(desc="decoded", unit=" utterances", dynamic_ncols=True) as bar:
        for shard in shards:
            with open_shard(shard) as stream:
                for _, utterance, _ in read_utterances(stream, windowing.samples):
                    if utterance is None:
                        continue
                    plan = windowing.plan(utterance.num_frames)
                    wave = next(iter(windowing.cut(utterance, plan)))
                    tokens = tokenizer.encode_windows([wave])[0]
                    if features:
                        features.add(wave, tokenizer.decode_features([tokens])[0])
                    if sound:
                        sound.add(wave, tokens)
                    bar.update()
    found = {}
    for part in asked:
        found.update(part.figures())
    return found
