"""The first stage of a causal tokenizer: a causal encoder learns the bidirectional one's features.

It continues after a kill, as every stage of a distillation does.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import WavLMModel

from pipeline.training.crop_training import train_on_crops
from pipeline.training.crops import Crops
from tokenizer.config import EncoderConfig
from tokenizer.encoder.causal_student import CausalStudent
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.storage.folder import Folder
from tokenizer.tokenizer import PRECISIONS
from tokenizer.training.loop import Show
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

# A stream is not normalised: the student hears levels up to this far, in dB, from the nominal one.
LEVEL_SPREAD = 12.0

# Waves (B, n) → features (B, T, D).
Features = Callable[[Tensor], Tensor]


def causal_form(config: EncoderConfig) -> EncoderConfig:
    """The causal encoder that a bidirectional one teaches. Raises EncoderError if none can be."""
    return replace(config, causal=True, normalize=False)


def train_causal_encoder(
    encoder: Path,
    config: EncoderConfig,
    weights: dict[str, Tensor],
    *,
    mean: Tensor,
    features: Features,
    crops: Crops,
    settings: TrainingSettings,
    runtime: RuntimeSettings,
    folder: Folder,
    show: Show,
) -> tuple[dict[str, Tensor], Features]:
    """Train the causal form of an encoder. Returns its weights, and the features it computes.

    encoder: the WavLM's local folder. config, weights: of its lower layers, as read from it. mean:
    (D,) of its features. features: of the bidirectional encoder, for waves of unit variance. The
    student gets each wave at a random level. The rest: as for train_on_crops.
    """
    form = causal_form(config)
    place = torch.device(runtime.device), PRECISIONS[settings.precision]
    stem = CausalWavLM(form, weights, *place)
    student = CausalStudent(WavLMModel.from_pretrained(encoder), form, mean)

    def objective(waves: Tensor, *_: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = features(waves)
        amplified = list(at_random_levels(waves, form) * form.gain)
        frames = stem.frames(amplified, [wanted.shape[1]] * len(waves))
        return student(frames.float().view_as(wanted), wanted)

    train_on_crops(
        student,
        objective,
        crops,
        muon=student.matrices(),
        settings=settings,
        runtime=runtime,
        folder=folder,
        name="encoder",
        show=show,
    )
    trained = student.weights()
    causal = CausalWavLM(form, trained, *place)

    def causal_features(waves: Tensor) -> Tensor:
        rows = causal(list(at_random_levels(waves, form)))
        return torch.stack([row.float().clone() for row in rows])

    return trained, causal_features


def at_random_levels(waves: Tensor, config: EncoderConfig) -> Tensor:
    """(B, n) of unit variance → each at a random level around the nominal one of config.gain."""
    decibels = LEVEL_SPREAD * (2 * torch.rand(len(waves), 1, device=waves.device) - 1)
    return waves * 10 ** (decibels / 20) / config.gain
