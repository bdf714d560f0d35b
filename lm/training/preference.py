"""Preference tuning: direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290).

The model's reward for a continuation is beta times how much likelier it has become than it was
before tuning; the loss is -log sigmoid of how much the chosen one's reward is over the rejected
one's. What it was before is computed once: no second model is kept. In one process, on one device.
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.evaluation.scoring import BATCH_TOKENS, token_nats, utterance_scores
from lm.files import save_lm
from lm.model import SpeechLM
from lm.training.triples import Triple
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.checkpoints import load_checkpoint, save_checkpoint
from tokenizer.training.optimizers import make_optimizers, rate_at, set_rate

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """beta: how far from the model before tuning a unit of reward is. rows: triples in a batch.

    per_token: rewards are of the mean token of a continuation, not of their sum; give a larger
    beta then. warm_up: share of the steps.
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


def preference_loss(margins: Tensor) -> Tensor:
    """(B,) rewards of the chosen over those of the rejected → (B,)."""
    return -F.logsigmoid(margins)


def sequences(triples: Sequence[Triple]) -> list[np.ndarray]:
    """Prompt and chosen of every triple, then prompt and rejected of every one."""
    return [
        np.concatenate([triple.prompt, part])
        for name in ("chosen", "rejected")
        for triple, part in ((triple, getattr(triple, name)) for triple in triples)
    ]


def continuation_nats(model: SpeechLM, triples: Sequence[Triple], per_token: bool) -> Tensor:
    """(B, 2) nats of chosen and rejected, given the prompt. Gradients go through it."""
    rows = sequences(triples)
    nats = token_nats(model, rows)
    begins = torch.tensor([len(triple.prompt) for triple in triples] * 2, device=nats.device)
    places = torch.arange(nats.shape[1], device=nats.device)
    sums = (nats * (places >= begins[:, None])).sum(1)
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
    """(N, 2) fp64 nats as continuation_nats gives them, without gradients, in batches."""
    begins = [len(triple.prompt) for triple in triples] * 2
    scores = utterance_scores(
        model, sequences(triples), batch_tokens=BATCH_TOKENS, show=show, first=begins
    )
    values = [nats / (count if per_token else 1) for nats, count in scores]
    return torch.tensor(values, dtype=torch.float64).view(2, -1).T


def reward_margins(nats: Tensor, before: Tensor, beta: float) -> Tensor:
    """(B, 2) nats now and before tuning → (B,) by how much the chosen one's reward is higher."""
    gain = before - nats
    return beta * (gain[:, 0] - gain[:, 1])


def figures(
    nats: Tensor, before: Tensor, triples: Sequence[Triple], beta: float, per_token: bool
) -> dict[str, float]:
    """What (N, 2) summed nats, now and before, say of triples.

    likelier: share of those whose chosen is the likelier per token; reward_accuracy: of those whose
    chosen has the higher reward. A tie counts half. bits: per token of all chosen, all rejected.
    """
    sizes = torch.tensor([[len(t.chosen), len(t.rejected)] for t in triples], dtype=torch.float64)
    each, bits = nats / sizes, nats.sum(0) / sizes.sum(0) / math.log(2)
    rewarded = (each, before / sizes) if per_token else (nats, before)
    margins = reward_margins(*rewarded, beta)
    return {
        "likelier": _share(each[:, 1] - each[:, 0]),
        "reward_accuracy": _share(margins),
        "reward_margin": float(margins.mean()),
        "chosen_bits": float(bits[0]),
        "rejected_bits": float(bits[1]),
    }


def _share(margins: Tensor) -> float:
    """Of those over zero; zeros count half."""
    return float(((margins > 0).double() + 0.5 * (margins == 0)).mean())


def split(triples: list[Triple], share: float, seed: int) -> tuple[list[Triple], list[Triple]]:
    """Triples to learn from, and those held out: a random share, one at the least if it is any."""
    count = min(len(triples) - 1, max(1, round(share * len(triples)))) if share else 0
    held = set(np.random.default_rng(seed).permutation(len(triples))[:count].tolist())
    return [own for i, own in enumerate(triples) if i not in held], [
        triples[i] for i in sorted(held)
    ]


def batch_of(count: int, rows: int, step: int, seed: int) -> list[int]:
    """Which triples a step learns from: an epoch has each of them once, in an order of its own."""
    places = range(step * rows, (step + 1) * rows)
    return [
        int(np.random.default_rng([seed, place // count]).permutation(count)[place % count])
        for place in places
    ]


class Alignment:
    """A tuning that goes on from its last checkpoint in `output`, if there is one, to its end."""

    def __init__(
        self,
        model: SpeechLM,
        triples: list[Triple],
        held_out: list[Triple],
        settings: PreferenceSettings,
        output,
        show: Callable[[str, int, int, str], object],
        checkpoint_minutes: float = 5.0,
        log_every: int = 10,
    ) -> None:
        """model: as before tuning, in fp32. output: a pipeline.storage.Folder. show: told of
        progress as a TrainingLine is.
        """
        self.model, self.triples, self.held_out = model.eval(), triples, held_out
        self.settings, self.output, self.show = settings, output, show
        self.folder = output.below("training")
        self.minutes, self.log_every = checkpoint_minutes, log_every
        self.device = next(model.parameters()).device
        # Before anything is loaded: these are the reference's.
        self.before = self._scored("reference", triples, settings.per_token)
        self.held_before = self._scored("held out", held_out, False)
        self.optimizers = make_optimizers(
            model, "adamw", rate=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.step, _, self.lines = load_checkpoint(self.folder, model, self.optimizers)

    def run(self, tokenizer: TokenizerFiles | None, made_by: dict) -> tuple[dict, dict]:
        """Tune, and write OUTPUT/model. Returns the held-out triples' figures before and after.

        Raises FloatingPointError when the loss is no number any more. Both are {} where nothing is
        held out.
        """
        settings, saved, said = self.settings, time.monotonic(), ""
        collected: list[dict] = []
        while self.step < settings.steps:
            collected.append(self._step())
            self.show("tune", self.step, settings.steps, said)
            last = self.step == settings.steps
            if not last and self.step % self.log_every:
                continue
            line = self._line(collected)
            collected = []
            said = f"loss {line['loss']:.3f}, reward accuracy {line['reward_accuracy']:.2f}"
            if last or time.monotonic() - saved > 60 * self.minutes:
                save_checkpoint(
                    self.folder,
                    self.model,
                    optimizers=self.optimizers,
                    step=self.step,
                    data={},
                    lines=self.lines,
                    keep=KEPT_CHECKPOINTS,
                )
                saved = time.monotonic()
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

        with self._autocast():
            return scored(self.model, triples, per_token=per_token, show=show)

    def _autocast(self) -> torch.autocast:
        """Of what is before tuning too: else rounding alone would be a gain."""
        bf16 = self.settings.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _figures(self, nats: Tensor) -> dict:
        if not self.held_out:
            return {}
        settings = self.settings
        return figures(
            nats,
            self.held_before,
            triples=self.held_out,
            beta=settings.beta,
            per_token=settings.per_token,
        )

    def _step(self) -> dict:
        settings = self.settings
        set_rate(
            self.optimizers,
            rate_at(
                self.step, settings.steps, highest=settings.learning_rate, warm_up=settings.warm_up
            ),
        )
        places = batch_of(len(self.triples), settings.rows, step=self.step, seed=settings.seed)
        batch = [self.triples[place] for place in places]
        with self._autocast():
            nats = continuation_nats(self.model, batch, settings.per_token)
        before = self.before[places].to(self.device, torch.float32)
        margins = reward_margins(nats, before, settings.beta)
        loss = preference_loss(margins).mean()
        if not math.isfinite(value := loss.item()):
            raise FloatingPointError(
                f"the loss is {value} at step {self.step + 1}: give a lower learning rate and "
                "another output folder"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        margins, nats = margins.detach(), nats.detach()
        return {
            "loss": value,
            "reward_margin": float(margins.mean()),
            "reward_accuracy": _share(margins),
            "chosen_nats": float(nats[:, 0].mean()),
            "rejected_nats": float(nats[:, 1].mean()),
        }

    def _line(self, collected: list[dict]) -> dict:
        line = {"step": self.step}
        for name in collected[0]:
            line[name] = round(float(np.mean([row[name] for row in collected])), 4)
        settings = self.settings
        line["learning_rate"] = rate_at(
            self.step - 1, settings.steps, highest=settings.learning_rate, warm_up=settings.warm_up
        )
        line["time"] = round(time.time(), 1)
        self.lines.append(line)
        return line

    def _write(self, tokenizer: TokenizerFiles | None, made_by: dict) -> None:
        """OUTPUT/model, its configuration last: a folder without one is none."""
        with tempfile.TemporaryDirectory() as scratch:
            save_lm(Path(scratch), self.model, tokenizer=tokenizer, made_by=made_by)
            files = [path for path in Path(scratch).rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: path == Path(scratch) / "config.json"):
                self.output.publish(path, f"model/{path.relative_to(scratch)}")
        self.folder.sweep()
        self.output.sweep()
