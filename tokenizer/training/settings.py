"""The settings that all trainings share. Nothing heavy is imported here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What decides the weights, beside the model and its data.

    learning_rate: the peak. warm_up: share of the steps in which the learning rate rises.
    clip_norm: the largest norm of the gradient over all parameters. precision: "fp32", or "bf16"
    for autocast. optimizer: "adamw" or "muon". accumulate: parts into which a process splits its
    share of a batch. workers: processes that train.
    """

    steps: int
    learning_rate: float
    seed: int
    precision: str = "fp32"
    warm_up: float = 0.03
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    optimizer: str = "muon"
    accumulate: int = 1
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """Where a training runs and what it writes; a run may go on with other values.

    device: "cpu" or "cuda". checkpoint_minutes: between two checkpoints. keep: newest checkpoints
    that stay. log_every: steps between two lines of the log. readers: processes that read data;
    0 reads in the training process.
    """

    device: str
    checkpoint_minutes: float = 2.0
    keep: int = 2
    log_every: int = 50
    readers: int = 0
