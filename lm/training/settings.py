"""The settings of a language model's training. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizer.training.settings import TrainingSettings

if TYPE_CHECKING:
    from lm.generation import Sampling


@dataclass(frozen=True, kw_only=True)
class LMTrainingSettings(TrainingSettings):
    """What decides the weights, beside the model's shape and the tokens.

    rows: of a global batch, over all workers, each of row_tokens positions. noise: share of the
    input tokens that are replaced by random ones. validate_every: steps; 0 validates at the end
    alone. keep_best: write the model of the best validation, not that of the last step.
    """

    rows: int
    row_tokens: int
    noise: float = 0.0
    validate_every: int = 0
    keep_best: bool = False
    warm_up: float = 0.03
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    optimizer: str = "adamw"


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """What decides the weights of a tuned model, beside the model before tuning and the triples.

    rows: triples in a batch. beta: a reward is beta times the gain in log-likelihood, in nats; the
    lower it is, the further the model moves. per_token: rewards are of the mean token of a
    continuation instead of the sum; beta has to be larger then. warm_up: share of the steps.
    """

    steps: int
    rows: int
    learning_rate: float
    beta: float = 0.1
    per_token: bool = False
    warm_up: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    precision: str = "fp32"
    seed: int = 0

    def training(self) -> TrainingSettings:
        """The part of them that the training loop knows."""
        return TrainingSettings(
            steps=self.steps,
            learning_rate=self.learning_rate,
            seed=self.seed,
            precision=self.precision,
            warm_up=self.warm_up,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            optimizer="adamw",
        )


@dataclass(frozen=True, kw_only=True)
class TripleSettings:
    """How triples are made of utterances.

    prompt_tokens: length of the prompt. continuation_tokens: maximum length of the continuation.
    most: maximum number of triples. seed: of sampling. batch: prompts that are continued at once.
    sampling: None uses the defaults of Sampling.
    """

    prompt_tokens: int = 100
    continuation_tokens: int = 150
    most: int = 1000
    seed: int = 0
    batch: int = 16
    sampling: Sampling | None = None
