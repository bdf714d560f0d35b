"""Preference tuning: direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290).

The reward of a continuation is beta times its gain in log-likelihood since before tuning. The loss
is -log sigmoid of the chosen continuation's reward minus the rejected one's. Log-likelihoods before
tuning are computed once, so no reference model is kept. One process trains, on one device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.evaluation.scoring import BATCH_TOKENS, token_nats, utterance_scores
from lm.files import save_lm
from lm.model import SpeechLM
from lm.training.settings import PreferenceSettings
from lm.training.trainer import lm_optimizers
from lm.training.triples import Triple
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.loop import Interval, Loss, Show, Training, autocast, train
from tokenizer.training.settings import RuntimeSettings


def preference_loss(margins: Tensor) -> Tensor:
    """(B,) rewards of the chosen minus those of the rejected → (B,)."""
    return -F.logsigmoid(margins)


def sequences(triples: Sequence[Triple]) -> list[np.ndarray]:
    """Prompt and chosen of every triple, then prompt and rejected of every triple."""
    return [np.concatenate([triple.prompt, triple.chosen]) for triple in triples] + [
        np.concatenate([triple.prompt, triple.rejected]) for triple in triples
    ]


def continuation_nats(model: SpeechLM, triples: Sequence[Triple], per_token: bool) -> Tensor:
    """(B, 2) nats of chosen and rejected given the prompt, with gradients.

    per_token: the mean over a continuation's tokens instead of the sum.
    """
    rows = sequences(triples)
    nats = token_nats(model, rows)
    begins = torch.tensor([len(triple.prompt) for triple in triples] * 2, device=nats.device)
    positions = torch.arange(nats.shape[1], device=nats.device)
    sums = (nats * (positions >= begins[:, None])).sum(1)
    if per_token:
        ends = torch.tensor([len(row) for row in rows], device=nats.device)
        sums = sums / (ends - begins)
    return sums.view(2, -1).T


def scored(
    model: SpeechLM,
    triples: Sequence[Triple],
    per_token: bool,
    show: Callable[[int], object] | None = None,
) -> Tensor:
    """(N, 2) fp64 nats as of continuation_nats, without gradients, in batches.

    show: called with the number of sequences just scored.
    """
    begins = [len(triple.prompt) for triple in triples] * 2
    scores = utterance_scores(
        model, sequences(triples), batch_tokens=BATCH_TOKENS, show=show, first=begins
    )
    values = [nats / (count if per_token else 1) for nats, count in scores]
    return torch.tensor(values, dtype=torch.float64).view(2, -1).T


def reward_margins(nats: Tensor, before: Tensor, beta: float) -> Tensor:
    """(B, 2) nats now and before tuning → (B,) reward of the chosen minus that of the rejected."""
    gain = before - nats
    return beta * (gain[:, 0] - gain[:, 1])


def figures(
    nats: Tensor, before: Tensor, triples: Sequence[Triple], beta: float, per_token: bool
) -> dict[str, float]:
    """Figures of triples, from their summed nats now and before tuning, (N, 2) each.

    likelier: share whose chosen has fewer nats per token than the rejected. reward_accuracy: share
    whose chosen has the higher reward. A tie counts half in both. reward_margin: mean.
    chosen_bits, rejected_bits: per token, over all tokens of all chosen or rejected.
    """
    sizes = torch.tensor([[len(t.chosen), len(t.rejected)] for t in triples], dtype=torch.float64)
    nats_per_token, bits = nats / sizes, nats.sum(0) / sizes.sum(0) / math.log(2)
    rewarded = (nats_per_token, before / sizes) if per_token else (nats, before)
    margins = reward_margins(*rewarded, beta)
    return {
        "likelier": float(_share_positive(nats_per_token[:, 1] - nats_per_token[:, 0])),
        "reward_accuracy": float(_share_positive(margins)),
        "reward_margin": float(margins.mean()),
        "chosen_bits": float(bits[0]),
        "rejected_bits": float(bits[1]),
    }


def _share_positive(margins: Tensor) -> Tensor:
    """() share of the margins over zero; zeros count half."""
    return ((margins > 0).double() + 0.5 * (margins == 0)).mean()


def split(triples: list[Triple], share: float, seed: int) -> tuple[list[Triple], list[Triple]]:
    """(to learn from, held out): a random share is held out, at least one triple if share > 0."""
    count = min(len(triples) - 1, max(1, round(share * len(triples)))) if share else 0
    held = set(np.random.default_rng(seed).permutation(len(triples))[:count].tolist())
    learning = [triple for number, triple in enumerate(triples) if number not in held]
    return learning, [triples[number] for number in sorted(held)]


def batch_of(count: int, rows: int, step: int, seed: int) -> list[int]:
    """The numbers of a step's triples: each of `count` once an epoch, in a new order each time."""
    places = range(step * rows, (step + 1) * rows)
    return [
        int(np.random.default_rng([seed, place // count]).permutation(count)[place % count])
        for place in places
    ]


class _TripleStream:
    """The numbers of the triples of each step, without end."""

    def __init__(self, count: int, settings: PreferenceSettings) -> None:
        self.count, self.settings, self.step = count, settings, 0

    def __next__(self) -> list[int]:
        settings = self.settings
        batch = batch_of(self.count, settings.rows, step=self.step, seed=settings.seed)
        self.step += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """{"step": steps drawn}."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from there."""
        self.step = state["step"]


class PreferenceTuning:
    """A tuning that continues from the newest checkpoint in `output`, if there is one."""

    def __init__(
        self,
        model: SpeechLM,
        triples: list[Triple],
        *,
        held_out: list[Triple],
        settings: PreferenceSettings,
        runtime: RuntimeSettings,
        output: Folder,
        show: Show,
    ) -> None:
        """model: as before tuning, in fp32, on its device. triples: to learn from.

        output: gets training/ and model/.
        """
        self.model, self.triples, self.held_out = model.eval(), triples, held_out
        self.settings, self.runtime, self.output, self.show = settings, runtime, output, show
        self.device = next(model.parameters()).device
        # Before a checkpoint is loaded: rewards compare with the model before tuning.
        self.before = self._scored("reference", triples, settings.per_token)
        self.held_before = self._scored("held out", held_out, False)
        self.lines: list[dict] = []

    def run(self, tokenizer: TokenizerFiles | None, made_by: dict) -> tuple[dict, dict]:
        """Tune, and write OUTPUT/model. Returns the held-out triples' figures before and after.

        Both are {} if nothing is held out. Raises TrainingFailed when the loss is not finite.
        """
        settings, training = self.settings, self.settings.training()
        self.lines = train(
            Training(
                name="tune",
                model=self.model,
                optimizers=lm_optimizers(
                    self.model,
                    training.optimizer,
                    learning_rate=training.learning_rate,
                    weight_decay=training.weight_decay,
                ),
                stream=_TripleStream(len(self.triples), settings),
                loss=self._loss,
                settings=training,
                runtime=self.runtime,
                folder=self.output.below("training"),
                line=_line,
                text=_text,
                show=self.show,
            )
        )
        after = self._scored("held out", self.held_out, False)
        results = [self._figures(nats) for nats in (self.held_before, after)]
        self._write(tokenizer, {**made_by, "settings": asdict(settings), "held_out": results[1]})
        return results[0], results[1]

    def _scored(self, name: str, triples: list[Triple], per_token: bool) -> Tensor:
        if not triples:
            return torch.zeros(0, 2, dtype=torch.float64)
        done = 0

        def show(count: int) -> None:
            nonlocal done
            done += count
            self.show(name, done, 2 * len(triples), "")

        # With the precision of training: else rounding alone would look like a gain.
        with autocast(self.device, self.settings.precision):
            return scored(self.model, triples, per_token=per_token, show=show)

    def _figures(self, nats: Tensor) -> dict:
        if not self.held_out:
            return {}
        return figures(
            nats,
            self.held_before,
            triples=self.held_out,
            beta=self.settings.beta,
            per_token=self.settings.per_token,
        )

    def _loss(self, batch: list[int]) -> Loss:
        """The sum of the triples' losses. batch: their numbers."""
        settings = self.settings
        triples = [self.triples[number] for number in batch]
        nats = continuation_nats(self.model, triples, settings.per_token)
        before = self.before[batch].to(self.device, torch.float32)
        margins = reward_margins(nats, before, settings.beta)
        return Loss(
            preference_loss(margins).sum(),
            len(batch),
            {
                "reward_margin": margins.mean(),
                "reward_accuracy": _share_positive(margins),
                "chosen_nats": nats[:, 0].mean(),
                "rejected_nats": nats[:, 1].mean(),
            },
        )

    def _write(self, tokenizer: TokenizerFiles | None, made_by: dict) -> None:
        """OUTPUT/model."""
        with scratch_folder() as scratch:
            save_lm(scratch, self.model, tokenizer=tokenizer, made_by=made_by)
            self.output.publish_folder(scratch, "model")
        self.output.below("training").sweep()
        self.output.sweep()


def _line(interval: Interval) -> dict:
    return {
        "step": interval.step,
        "loss": round(interval.loss, 4),
        **{name: round(value, 4) for name, value in interval.figures.items()},
        "learning_rate": interval.learning_rate,
    }


def _text(line: dict) -> str:
    return f"loss {line['loss']:.3f}, reward accuracy {line['reward_accuracy']:.2f}"
