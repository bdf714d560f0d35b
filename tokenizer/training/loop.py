"""The one training loop: encoder, distillation, vocoder, language model and preference tuning.

A training is given

    model        and its optimizers (tokenizer/training/optimizers.py)
    stream       batches without end, with state_dict and load_state_dict
    loss         a batch → `Loss`: a sum over targets, their count, and figures to log
    line, text   an `Interval` of steps → a line of the log → what the progress display says of it
    after_step   optional, called after each step: a codebook resets unused codes there
    validate     optional, called with the line of a step that validates, and the earlier lines

and the loop promises:

1. A training that is killed continues from its last checkpoint, and ends with the bits that it
   would have had: on one kind of machine, with the same number of threads and readers. Whatever is
   drawn at random in a loss depends on seed, step, process and part alone.
2. The gradient of a step is that of the sum of all losses over the count of all targets, whichever
   process and part of an accumulated batch computes them.
3. One process or several give the same loss, up to rounding, if together they draw the same batch.
   Token rows and preference triples do; audio crops do not, as each process draws its own.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tokenizer.errors import TrainingFailed
from tokenizer.storage.folder import Folder
from tokenizer.training.checkpoints import load_checkpoint, save_checkpoint
from tokenizer.training.processes import (
    process_count,
    process_rank,
    sum_over_processes,
    without_sums,
)
from tokenizer.training.schedule import learning_rate_at, set_learning_rate
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

# Called with a name, steps done, steps in all, and text about the last steps.
Show = Callable[[str, int, int, str], object]


@dataclass(frozen=True)
class Loss:
    """total: () sum of the losses of `count` targets. figures: () each, means over the batch."""

    total: Tensor
    count: float
    figures: dict[str, Tensor] = field(default_factory=dict)


class Stream(Protocol):
    """Batches without end; see tokenizer/training/stream.py."""

    def __next__(self) -> Any: ...

    def state_dict(self) -> dict:
        """The position, as JSON can hold it."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Continue from a position."""
        ...


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The steps since the last line of the log.

    step: how many are done in all. loss: mean per target, over all processes. count: targets.
    figures: means over steps and processes. seconds: that the steps took, without validation.
    learning_rate, gradient_norm: of the last step. before: the last line, if there is one.
    """

    step: int
    loss: float
    count: float
    figures: dict[str, float]
    seconds: float
    learning_rate: float
    gradient_norm: float
    before: dict | None


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one training consists of, see above; `name` is shown beside its progress.

    folder: for checkpoints and log. buffers: prefixes of the model's buffers that training changes.
    validate_every: steps; 0 validates at the end alone. parallel: the wrapper through which the
    loss calls the model, as `summed_in_backward` gives it; without one gradients are summed after a
    step's passes.
    """

    name: str
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    stream: Stream
    loss: Callable[[Any], Loss]
    settings: TrainingSettings
    runtime: RuntimeSettings
    folder: Folder
    line: Callable[[Interval], dict]
    text: Callable[[dict], str]
    show: Show
    buffers: tuple[str, ...] = ()
    after_step: Callable[[int], None] | None = None
    validate: Callable[[dict, list[dict]], None] | None = None
    validate_every: int = 0
    parallel: DistributedDataParallel | None = None


def train(training: Training) -> list[dict]:
    """Do the steps that are left, from the newest checkpoint. Returns the log.

    The model has to be on its device and in the mode it trains in. A line is written every
    `log_every` steps, at each validation and at the end; a checkpoint with the first line after
    `checkpoint_minutes`, and at the end. The first process alone writes and shows.
    Raises TrainingFailed when the loss is not finite.
    """
    settings, runtime = training.settings, training.runtime
    first = process_rank() == 0
    step, position, lines = load_checkpoint(
        training.folder, training.model, training.optimizers, buffers=training.buffers
    )
    if position:
        training.stream.load_state_dict(position)
    steps = _Steps(training)
    saved, text = time.monotonic(), ""
    while step < settings.steps:
        steps.run(step)
        step += 1
        if training.after_step:
            training.after_step(step)
        if first:
            training.show(training.name, step, settings.steps, text)
        last = step == settings.steps
        every = training.validate_every
        validates = training.validate and (last or (every > 0 and step % every == 0))
        if not (last or validates or step % runtime.log_every == 0):
            continue
        line = training.line(steps.interval(step, lines[-1] if lines else None))
        line["time"] = round(time.time(), 1)
        if training.validate and validates:
            training.validate(line, lines)
            steps.restart_clock()
        lines.append(line)
        text = training.text(line)
        if first and (last or time.monotonic() - saved > 60 * runtime.checkpoint_minutes):
            save_checkpoint(
                training.folder,
                training.model,
                optimizers=training.optimizers,
                step=step,
                data=training.stream.state_dict(),
                lines=lines,
                keep=runtime.keep,
                buffers=training.buffers,
            )
            saved = time.monotonic()
    return lines


class _Steps:
    """Does steps, and adds up what the log says of them."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.device = torch.device(training.runtime.device)
        self.parameters = [p for p in training.model.parameters() if p.requires_grad]
        self._clear()

    def run(self, step: int) -> None:
        """Forward, backward and update. step: its number, from 0."""
        training, settings = self.training, self.training.settings
        totals = torch.zeros(2, device=self.device)
        for part in range(settings.accumulate):
            batch = next(training.stream)
            torch.manual_seed(_draw_seed(settings.seed, step=step, part=part))
            last = part == settings.accumulate - 1
            with nullcontext() if last else without_sums(training.parallel):
                with autocast(self.device, settings.precision):
                    loss = training.loss(batch)
                loss.total.backward()
            total = loss.total.detach().float()
            totals += torch.stack([total, totals.new_tensor(float(loss.count))])
            for name, value in loss.figures.items():
                value = value.detach().double()
                self.figures[name] = self.figures[name] + value if name in self.figures else value
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        sum_over_processes([totals] if training.parallel else [*gradients, totals])
        torch._foreach_div_(gradients, totals[1])
        self.norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm)
        self.rate = learning_rate_at(
            step, settings.steps, peak=settings.learning_rate, warm_up=settings.warm_up
        )
        set_learning_rate(training.optimizers, self.rate)
        for optimizer in training.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.totals += totals
        self.parts += settings.accumulate

    def interval(self, step: int, before: dict | None) -> Interval:
        """The steps since the last call. Raises TrainingFailed when their loss is not finite."""
        names, values = list(self.figures), list(self.figures.values())
        sum_over_processes(values)
        parts = self.parts * process_count()
        total, count = self.totals.tolist()
        loss = total / max(count, 1)
        if not math.isfinite(loss):
            raise TrainingFailed(
                f"the loss is {loss} at step {step}: give a lower learning rate and another "
                "output folder"
            )
        interval = Interval(
            step=step,
            loss=loss,
            count=count,
            figures={name: float(value) / parts for name, value in zip(names, values)},
            seconds=time.monotonic() - self.began,
            learning_rate=self.rate,
            gradient_norm=float(self.norm),
            before=before,
        )
        self._clear()
        return interval

    def restart_clock(self) -> None:
        """Measure time from here."""
        self.began = time.monotonic()

    def _clear(self) -> None:
        self.totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.figures: dict[str, Tensor] = {}
        self.parts = 0
        self.restart_clock()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to bfloat16, if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _draw_seed(seed: int, step: int, part: int) -> int:
    """A seed for what this process draws in a part of a step."""
    numbers = json.dumps([seed, step, process_rank(), part]).encode()
    return int.from_bytes(blake2b(numbers, digest_size=8).digest()) >> 1
