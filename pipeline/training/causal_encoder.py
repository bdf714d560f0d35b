"""The first stage of a causal tokenizer: its encoder learns to give, chunk by chunk, what the
bidirectional one gives. It goes on after a kill, as every stage of a distillation does.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import WavLMModel

from tokenizer.config import EncoderConfig
from tokenizer.encoder.causal_student import CausalStudent
from tokenizer.encoder.causal_wavlm import CausalWavLM
from tokenizer.storage.folder import Folder
from tokenizer.tokenizer import PRECISIONS
from tokenizer.training.loop import TrainingSettings, train

# A stream is not normalised: levels are drawn this far, in dB, around the nominal one.
LEVEL_SPREAD = 12.0


def causal_form(config: EncoderConfig) -> EncoderConfig:
    """The causal encoder that a bidirectional one teaches. Raises EncoderError if none can be."""
    return replace(config, causal=True, normalize=False)


def learn_causal(
    encoder: Path,
    config: EncoderConfig,
    weights: dict[str, Tensor],
    mean: Tensor,
    features: Callable[[Tensor], Tensor],
    batches,
    training: TrainingSettings,
    folder: Folder,
    show,
) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]:
    """Train the causal form of an encoder; its weights, and waves (B, n) → its features (B, T, D).

    encoder: the WavLM's local folder. config, weights: as read from it. mean: (D,) of its features.
    features: waves (B, n) of unit variance → what it gives. The waves come to the student at a
    level that is drawn for each. batches, training, folder, show: as for `train`.
    """
    form = causal_form(config)
    place = torch.device(training.device), PRECISIONS[training.precision]
    stem = CausalWavLM(form, weights, *place)
    student = CausalStudent(WavLMModel.from_pretrained(encoder), form, mean)

    def objective(waves, *_):
        wanted = features(waves)
        amplified = list(at_levels(waves, form) * form.gain)
        frames = stem.frames(amplified, [wanted.shape[1]] * len(waves))
        return student(frames.float().view_as(wanted), wanted)

    train(
        student,
        objective,
        batches=batches,
        settings=training,
        folder=folder,
        name="encoder",
        show=show,
    )
    learned = student.weights()
    causal = CausalWavLM(form, learned, *place)

    def heard(waves: Tensor) -> Tensor:
        rows = causal(list(at_levels(waves, form)))
        return torch.stack([own.float().clone() for own in rows])

    return learned, heard


def at_levels(waves: Tensor, config: EncoderConfig) -> Tensor:
    """(B, n) of unit variance → each at a drawn level around that which config.gain is for."""
    decibels = LEVEL_SPREAD * (2 * torch.rand(len(waves), 1, device=waves.device) - 1)
    return waves * 10 ** (decibels / 20) / config.gain
