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
from pipeline.training.levels import at_random_levels, padded_crops
from tokenizer.audio.frames import LEFT_PADDING
from tokenizer.config import EncoderConfig
from tokenizer.encoder.causal_student import CausalStudent
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.storage.folder import Folder
from tokenizer.tokenizer import PRECISIONS
from tokenizer.training.loop import Show
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

# FocalCodec-Stream's window is 512 frames with the chunk itself in it.
WINDOW_FRAMES = 512

# Waves (B, n) → features (B, T, D).
Features = Callable[[Tensor], Tensor]


def causal_form(config: EncoderConfig, replicate_padding: bool = False) -> EncoderConfig:
    """The causal encoder that a bidirectional one teaches. Raises EncoderError if none can be.

    replicate_padding: in FocalCodec-Stream's form, with its padding and its attention window.
    """
    causal = replace(config, causal=True, normalize=False)
    if not replicate_padding:
        return causal
    past = WINDOW_FRAMES - causal.chunk_frames
    return replace(causal, replicate_padding=True, past_frames=past)


def train_causal_encoder(
    encoder: Path,
    config: EncoderConfig,
    weights: dict[str, Tensor],
    *,
    replicate_padding: bool = False,
    mean: Tensor,
    features: Features,
    crops: Crops,
    settings: TrainingSettings,
    runtime: RuntimeSettings,
    folder: Folder,
    show: Show,
) -> tuple[dict[str, Tensor], Features]:
    """Train the causal form of an encoder. Returns its weights, and the features it computes.

    encoder: the WavLM's local folder. config, weights: of its lower layers, as read from it.
    replicate_padding: as for causal_form; frame t of the student learns frame t of the teacher, in
    this form too. mean: (D,) of its features. features: of the bidirectional encoder, for waves of
    unit variance. The student gets each wave at a random level. The rest: as for train_on_crops.
    """
    form = causal_form(config, replicate_padding)
    place = torch.device(runtime.device), PRECISIONS[settings.precision]
    stem = CausalWavLM(form, weights, *place)
    student = CausalStudent(WavLMModel.from_pretrained(encoder), form, mean)

    def objective(waves: Tensor, *_: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = features(waves)
        amplified = list(student_waves(waves, form) * form.gain)
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
        rows = causal(list(student_waves(waves, form)))
        return torch.stack([row.float().clone() for row in rows])

    return trained, causal_features


def student_waves(waves: Tensor, config: EncoderConfig) -> Tensor:
    """(B, n) of unit variance → (B, n'), what a causal encoder gets of them, at random levels.

    It has a frame for each of the teacher's.
    """
    padding = LEFT_PADDING if config.replicate_padding else 0
    return padded_crops(at_random_levels(waves, config.gain), padding)
