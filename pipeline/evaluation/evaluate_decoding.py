"""Audio shards → figures of what tokens decode to: features and speech, and scores of the speech.

One process and one pass, one utterance at a time: it is for test sets of minutes or hours.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import WavLMModel

from pipeline.cluster.progress import bar
from pipeline.evaluation.resynthesis import (
    COPY,
    MADE,
    ORIGINAL,
    ResynthesisScores,
    transcript_of,
)
from pipeline.scores.bootstrap import ratio_interval
from pipeline.shards.inputs import Shard
from pipeline.shards.metadata import Metadata
from pipeline.shards.reading import open_shard, read_utterances
from pipeline.training.levels import raw_form
from tokenizer.audio.augmentation import normalize
from tokenizer.audio.decoding import Utterance
from tokenizer.audio.frames import SAMPLE_RATE, num_frames
from tokenizer.audio.resampling import as_float, resample
from tokenizer.audio.windows import Windowing
from tokenizer.codec.centring import centred
from tokenizer.codec.decoder import LEVEL
from tokenizer.codec.distillation import UpperLayers
from tokenizer.codec.vocoder_losses import SpectralLoss
from tokenizer.config import MFCCConfig
from tokenizer.encoder.wavlm import WavLM
from tokenizer.errors import UsageError
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

# {figure: (sums, counts)} of utterances: the figure is the sum of the first over the second's.
Parts = dict[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]]


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
        # Of each utterance: squared error, squares and sum of the features, cosines, frames.
        self.errors: list[float] = []
        self.squares: list[float] = []
        self.sums: list[np.ndarray] = []
        self.cosines: list[float] = []
        self.frames: list[int] = []

    @torch.inference_mode()
    def add(self, wave: np.ndarray, decoded: np.ndarray) -> torch.Tensor:
        """wave: (n,) as the encoder expects it, without padding. decoded: (T', D), T' >= T.

        Returns (T, D), the features themselves.
        """
        if self.normalize:
            wave = normalize(wave)
        true = self.lower([torch.from_numpy(wave)])[0].float()
        made = torch.from_numpy(decoded[: len(true)])
        self.errors.append(float((made - true).square().sum()))
        self.squares.append(float(true.double().square().sum()))
        self.sums.append(true.double().sum(0).numpy())
        made_top, true_top = self.upper(torch.stack([made, true]))
        self.cosines.append(float(F.cosine_similarity(made_top, true_top, dim=-1).sum()))
        self.frames.append(len(true))
        return true

    def parts(self) -> Parts:
        """The parts of everything that was added."""
        if not self.frames:
            return {"feature_error": ([], []), "top_cosine": ([], [])}
        frames, sums = np.array(self.frames), np.array(self.sums)
        mean = sums.sum(0) / frames.sum()
        # Each utterance's share of the variance around the mean of all.
        variances = np.array(self.squares) - 2 * sums @ mean + frames * (mean @ mean)
        return {"feature_error": (self.errors, variances), "top_cosine": (self.cosines, frames)}


class SoundFigures:
    """How far resynthesised speech is from the original, both at 16 kHz.

    Speech of a vocoder at another rate is resampled first: what it has above 8 kHz is not measured.
    log_mel_distance: mean absolute difference of log mel magnitudes, in nepers, at four window
    lengths (SpectralLoss), with both at one level. tokens_back: share of tokens that stay the same
    when the resynthesised speech is tokenized.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.spectra = tokenizer, SpectralLoss()
        # Of each utterance.
        self.distances: list[float] = []
        self.same: list[int] = []
        self.tokens: list[int] = []
        self.decode_seconds = 0.0

    @torch.inference_mode()
    def add(self, wave: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """wave: (n,) at any level. tokens: (T,) of the same speech.

        Returns (n',) float32, the resynthesised speech at 16 kHz.
        """
        started = time.perf_counter()
        decoded = self.tokenizer.decode(tokens)
        self.decode_seconds += time.perf_counter() - started
        made = at_16_khz(decoded, self.tokenizer)
        true = wave[: len(made)]
        true = LEVEL * (true - true.mean()) / true.std().clip(1e-7)
        pair = [torch.from_numpy(x[None, : len(true)].astype(np.float32)) for x in (made, true)]
        self.distances.append(float(self.spectra(*pair)[0]))
        again = self.tokenizer.encode(made)
        self.same.append(int((again[: len(tokens)] == tokens[: len(again)]).sum()))
        self.tokens.append(len(tokens))
        return made

    def parts(self) -> Parts:
        """The parts of everything that was added."""
        return {
            "log_mel_distance": (self.distances, np.ones(len(self.distances))),
            "tokens_back": (self.same, self.tokens),
        }


class DecodingFigures(NamedTuple):
    """figures: by name. scores: those with an interval over utterances, as files have them.

    utterances: {key: {NAME_sum and NAME_count: what a figure is the ratio of}}.
    """

    figures: dict[str, float | None]
    scores: dict[str, dict]
    utterances: dict[str, dict[str, float]]


def decoding_figures(
    shards: list[Shard],
    files: TokenizerFiles,
    windowing: Windowing,
    features: FeatureFigures | None,
    scores: ResynthesisScores | None = None,
    left_out: Collection[str] = (),
) -> DecodingFigures:
    """Figures over the first window of every utterance; none if there is nothing to measure.

    features: an empty one, if they are to be measured. Speech is measured if the tokenizer has a
    vocoder, and then scores are taken too; of copies, if there are features. left_out: keys of
    utterances that are not scored. Raises UsageError for scores without a vocoder.
    """
    tokenizer = Tokenizer(files)
    if scores:
        tokenizer.needed_decoding().needed_vocoder()
    sound = SoundFigures(tokenizer) if files.vocoder else None
    keys: dict[str, list[str]] = {"features": [], "sound": []}
    if not features and not sound:
        return DecodingFigures({}, {}, {})
    seconds, encode_seconds = 0.0, 0.0
    with bar("decoded", "utterances") as progress:
        for shard in shards:
            late: dict[str, Metadata] = {}
            with open_shard(shard) as stream:
                for sample, utterance, _ in read_utterances(stream, windowing.samples, late):
                    if utterance is None:
                        continue
                    original, padded = first_window(utterance, windowing)
                    started = time.perf_counter()
                    tokens = tokenizer.encode_windows([padded])[0]
                    encode_seconds += time.perf_counter() - started
                    seconds += len(original) / SAMPLE_RATE
                    wave, sounds = padded[windowing.left_padding :], {ORIGINAL: original}
                    if features and num_frames(len(wave)):
                        true = features.add(wave, tokenizer.decode_features([tokens])[0])
                        keys["features"].append(sample.key)
                        if scores:
                            sounds[COPY] = copied(true, tokenizer)
                    if sound:
                        sounds[MADE] = sound.add(wave, tokens)
                        keys["sound"].append(sample.key)
                    if scores and sample.key not in left_out:
                        said = transcript_of(sample.metadata, sample.beside)
                        cut = utterance.samples > len(original)
                        scores.add(sample.key, sounds, transcript=said, cut=cut)
                    progress.update()
            if scores:
                for key, metadata in late.items():
                    scores.give_transcript(key, transcript_of(metadata.value, {}))
    done = DecodingFigures({}, {}, {})
    for part, of in ((features, keys["features"]), (sound, keys["sound"])):
        for name, (sums, counts) in part.parts().items() if part else ():
            interval = ratio_interval(sums, counts)
            done.figures[name] = interval.value
            done.scores[name] = interval.record("", "")
            for key, up, by in zip(of, sums, counts):
                row = done.utterances.setdefault(key, {})
                row[f"{name}_sum"], row[f"{name}_count"] = float(up), float(by)
    if sound:
        done.figures["times_real_time"] = seconds / (encode_seconds + sound.decode_seconds)
    return done


def first_window(utterance: Utterance, windowing: Windowing) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float32 of an utterance's first window as it was recorded, and as the encoder gets it.

    The latter is normalised where the encoder needs it, with the left padding in front.
    """
    window = next(windowing.cut_raw(utterance, windowing.plan_samples(utterance.samples)))
    return as_float(window.samples)[windowing.left_padding :], window.waveform()


def copied(features: torch.Tensor, tokenizer: Tokenizer) -> np.ndarray:
    """(T, D) WavLM's own features → (n,) float32 at 16 kHz, what the vocoder makes of them.

    They are centred and scaled as the centroids of k-means are, which its vocoder learned from.
    """
    decoding = tokenizer.needed_decoding()
    if decoding.compression is None:
        if tokenizer.center is not None:
            features = centred(features, tokenizer.center)
        if decoding.scale != 1:
            features = decoding.scale * F.normalize(features, dim=-1)
    return at_16_khz(decoding.speech_of(features), tokenizer)


def at_16_khz(decoded: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """(n,) speech of a tokenizer's vocoder, at its own rate → (n',) float32 at 16 kHz."""
    return np.concatenate(list(resample([decoded], tokenizer.output_sample_rate)))
