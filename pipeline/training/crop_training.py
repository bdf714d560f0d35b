"""Training a model on crops of audio: what encoder, distillation and vocoder have in common.

Each process draws its own crops, so another number of processes trains on other data.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.settings import CropSettings
from pipeline.training.crop_stream import CropStream
from pipeline.training.crops import Crops
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.storage.folder import Folder
from tokenizer.training.loop import Interval, Loss, Show, Training, train
from tokenizer.training.optimizers import make_optimizers
from tokenizer.training.processes import process_count
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

# wav2vec 2.0's (arXiv 2006.11477).
ADAM_BETAS = (0.9, 0.98)

# A batch's waves (B, n), mask (B, T) and labels (B, T) → the mean loss of its rows, and figures.
Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def train_on_crops(
    model: nn.Module,
    objective: Objective,
    crops: Crops,
    *,
    muon: set[str],
    settings: TrainingSettings,
    runtime: RuntimeSettings,
    folder: Folder,
    name: str,
    show: Show,
    buffers: tuple[str, ...] = (),
    after_step: Callable[[int], None] | None = None,
) -> list[dict]:
    """Train a model in place, from its newest checkpoint in `folder`. Returns the log.

    muon: names of the parameters that Muon trains. The log has the loss, the objective's figures,
    the learning rate, the hours of audio so far, and how many times faster than real time they go
    by. The rest is as in tokenizer/training/loop.py. Raises TrainingFailed when the loss is not
    finite.
    """
    device = torch.device(runtime.device)
    model.to(device).train()

    def loss(batch: tuple[Tensor, ...]) -> Loss:
        parts = [part.to(device, non_blocking=True) for part in batch]
        mean, figures = objective(*parts)
        rows = len(parts[0])
        return Loss(rows * mean, rows, figures)

    log = _CropLog(crops.settings)
    return train(
        Training(
            name=name,
            model=model,
            optimizers=crop_optimizers(model, muon, settings),
            stream=CropStream(crops, runtime.readers, pin_memory=device.type == "cuda"),
            loss=loss,
            settings=settings,
            runtime=runtime,
            folder=folder,
            line=log.line,
            text=log.text,
            show=show,
            buffers=buffers,
            after_step=after_step,
        )
    )


def crop_optimizers(
    model: nn.Module, muon: set[str], settings: TrainingSettings
) -> list[torch.optim.Optimizer]:
    """Muon for the named parameters, AdamW for the others; norms and biases do not decay."""
    return make_optimizers(
        model,
        muon=muon if settings.optimizer == "muon" else set(),
        decayed={name for name, p in model.named_parameters() if p.ndim > 1},
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=ADAM_BETAS,
    )


class _CropLog:
    """Makes the lines of the log, and what the progress display says of them."""

    def __init__(self, settings: CropSettings) -> None:
        self.row_seconds = settings.frames / FRAMES_PER_SECOND
        self.rows = settings.rows * process_count()
        self.began, self.seconds = time.monotonic(), 0.0
        self.shown: list[str] = []

    def line(self, interval: Interval) -> dict:
        self.seconds += interval.count * self.row_seconds
        means = {"loss": interval.loss, **interval.figures}
        self.shown = list(means)
        return {
            "step": interval.step,
            **{name: round(value, 4) for name, value in means.items()},
            "learning_rate": interval.learning_rate,
            "hours": round(interval.step * self.rows * self.row_seconds / 3600, 3),
            "times_real_time": round(self.seconds / (time.monotonic() - self.began), 1),
        }

    def text(self, line: dict) -> str:
        figures = [f"{name.replace('_', ' ')} {line[name]:.3f}" for name in self.shown]
        return f"{', '.join(figures)}, {line['times_real_time']:.0f} x real time"
