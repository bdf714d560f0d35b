"""The loop that trains: batches in, weights out, with checkpoints and a log.

A run that is killed goes on from its last checkpoint, with a new draw of the data from there on:
what was heard by then does not have to be heard again. Where torch.distributed is on, each process
has its own batches, and gradients are averaged over all.
"""

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import distributed, nn
from torch.utils.data import DataLoader, IterableDataset

from pipeline.cluster.progress import TrainingLine
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLES_PER_FRAME
from tokenizer.storage.folder import Folder

# A batch, waves (B, n) first → the loss and what else to log of it
Objective = Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]
CHECKPOINT = "checkpoint.safetensors"
LOG_EVERY_STEPS = 50
WARM_UP = 0.03
# Muon's rate for the matrices, in AdamW's for the rest.
MATRIX_RATE = 2.0
# The rate at the end, as a share of the highest.
LAST_RATE = 0.05
WEIGHT_DECAY = 0.01
CLIP_NORM = 5.0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """steps: in all. learning_rate: the highest. checkpoint_minutes: between two of them.

    workers: processes that read and mix the audio.
    """

    steps: int
    learning_rate: float
    precision: str
    device: str
    checkpoint_minutes: float
    workers: int


class TrainingFailed(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


def train(
    model: nn.Module,
    objective: Objective,
    batches: Callable[[int], IterableDataset],
    settings: TrainingSettings,
    folder: Folder,
    name: str,
    after_step: Callable[[int], None] | None = None,
    show: Callable[[str, int, int, str], None] | None = None,
) -> None:
    """Train `model` in place up to settings.steps, from its checkpoint in `folder` if there is one.

    model: its `matrices()` names the parameters for Muon. batches: the step a run begins at → its
    data. folder: gets the checkpoint and log.jsonl, a line every 50 steps: loss, what else the
    objective gave, learning rate, hours of audio so far, times real time. name: for the progress
    bar. after_step: called with the number of steps done. show: called in place of a TrainingLine,
    where another process shows progress. Raises TrainingFailed when the loss is no number any more.
    """
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    device = torch.device(settings.device)
    model.to(device).train()
    optimizers = make_optimizers(model, settings.learning_rate)
    step, hours, lines = _resume(model, optimizers, folder)
    if step == settings.steps:
        return
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    line = None if show else TrainingLine()
    show, said = show or line, ""
    saved = began = time.monotonic()
    totals, counted, seconds = Counter(), 0, 0.0
    # Spawned, not forked: this process has Ray's and OpenMP's threads by now.
    loader = DataLoader(
        batches(step),
        batch_size=None,
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
        multiprocessing_context="spawn" if settings.workers else None,
        pin_memory=device.type == "cuda",
    )
    stream = iter(loader)
    try:
        while step < settings.steps:
            batch = [part.to(device, non_blocking=True) for part in next(stream)]
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["share"] * rate_at(step, settings)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss, more = objective(*batch)
            loss.backward()
            if world > 1:
                _average_gradients(model, world)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            if after_step:
                after_step(step)
            totals.update({"loss": loss.detach(), **more})
            counted += 1
            rows, samples = batch[0].shape
            seconds += world * rows * (samples // SAMPLES_PER_FRAME) / FRAMES_PER_SECOND
            if first:
                show(name, step, settings.steps, said)
            if step % LOG_EVERY_STEPS and step < settings.steps:
                continue
            row = {
                "step": step,
                **{key: round(float(total) / counted, 4) for key, total in totals.items()},
                "learning_rate": rate_at(step - 1, settings),
                "hours": round(hours + seconds / 3600, 3),
                "times_real_time": round(seconds / (time.monotonic() - began), 1),
            }
            if not math.isfinite(row["loss"]):
                raise TrainingFailed(
                    f"the loss is {row['loss']} at step {step}: give a lower learning rate and "
                    "another output folder"
                )
            lines.append(row)
            shown = [f"{key.replace('_', ' ')} {row[key]:.3f}" for key in totals]
            said = f"{', '.join(shown)}, {row['times_real_time']:.0f} x real time"
            totals, counted = Counter(), 0
            late = time.monotonic() - saved > 60 * settings.checkpoint_minutes
            if first and (late or step == settings.steps):
                _save(
                    model,
                    optimizers,
                    step=step,
                    hours=hours + seconds / 3600,
                    lines=lines,
                    folder=folder,
                )
                saved = time.monotonic()
    finally:
        if line:
            line.close()


def rate_at(step: int, settings: TrainingSettings) -> float:
    """The learning rate: linear warm-up, then half a cosine to a twentieth."""
    warm_up = max(1, round(WARM_UP * settings.steps))
    if step < warm_up:
        return settings.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, settings.steps - warm_up)
    share = LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * share


def _average_gradients(model: nn.Module, world: int) -> None:
    """Over all processes, in one message."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_((mean / world).view_as(gradient))


def make_optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that `model.matrices()` names, AdamW for everything else.

    Muon (Jordan et al. 2024) as PyTorch has it, its step scaled to AdamW's (Moonshot, arXiv
    2502.16982). A short training decides it: the convolutions' error after 400 steps on spectra was
    0.47 with AdamW and 0.29 with this. Norms, biases and other vectors do not decay.
    """
    matrices = model.matrices()
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    others = [p for name, p in parameters if name not in matrices]
    muon = torch.optim.Muon(
        [p for name, p in parameters if name in matrices],
        lr=rate,
        weight_decay=WEIGHT_DECAY,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.98),  # wav2vec 2.0's
        fused=True,
    )
    for optimizer, share in ((muon, MATRIX_RATE), (adamw, 1.0)):
        for group in optimizer.param_groups:
            group["share"] = share
    return [muon, adamw]


def _save(model, optimizers, step: int, hours: float, lines: list[dict], folder: Folder) -> None:
    """Checkpoint, whole or not at all; it holds the log too, so that both end at one step."""
    tensors = {f"model.{name}": value.detach().cpu() for name, value in model.state_dict().items()}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"{key}.{names[parameter]}"] = value.detach().cpu()
    about = {"step": str(step), "hours": repr(hours), "log": json.dumps(lines)}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "checkpoint"
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, about)
        folder.publish(path, CHECKPOINT)
    folder.publish_text("".join(json.dumps(line) + "\n" for line in lines), "log.jsonl")


def _resume(model, optimizers, folder: Folder) -> tuple[int, float, list[dict]]:
    """Load the round's checkpoint, if any. Returns its step, hours heard and log lines."""
    if not folder.fs.exists(folder.path(CHECKPOINT)):
        return 0, 0.0, []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "checkpoint"
        folder.fs.get_file(folder.path(CHECKPOINT), str(path))
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    parameters, matrices = dict(model.named_parameters()), model.matrices()
    weights = {}
    for name, tensor in tensors.items():
        kind, _, parameter = name.partition(".")
        if kind == "model":
            weights[parameter] = tensor
            continue
        owner = parameters[parameter]
        optimizer = optimizers[0 if parameter in matrices else 1]
        # A fused AdamW wants its count of steps beside the weights.
        optimizer.state[owner][kind] = tensor.to(owner.device)
    model.load_state_dict(weights)
    return int(about["step"]), float(about["hours"]), json.loads(about["log"])
