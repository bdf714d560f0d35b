"""The training of a language model: rows in, weights out; one of the processes of Ray Train.

The loss of a step is the mean over all targets of its global batch, whoever computes which part:
every process, and every part where gradients are accumulated, weighs its sum by the targets of all.
All that is drawn in a step depends on the seed, the step and the process alone, and the rows on the
seed and their number: a training that was killed goes on from its last checkpoint as if it had not
been, to the last bit on one kind of machine.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lm.config import LMConfig
from lm.files import save_lm
from lm.from_wavlm import start_from_wavlm
from lm.model import SpeechLM, targets, token_losses
from lm.training.data import TokenShards
from lm.training.rows import Batching, TokenStream
from lm.training.speed import Speed, matmul_flops
from lm.training.validation import bits_per_token
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.checkpoints import load_checkpoint, save_checkpoint
from tokenizer.training.optimizers import make_optimizers, rate_at, set_rate, sum_over_processes


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What decides the weights, beside the model's shape and the tokens.

    rows: of a global batch, row_tokens long each. accumulate: parts of a process's share of them.
    workers: processes. warm_up: share of the steps. noise: share of the tokens that the model is
    given another of in their place. optimizer: "adamw" or "muon". validate_every: steps; 0 is at
    the end alone. keep_best: the model is that of the best validation, not of the last step.
    """

    steps: int
    rows: int
    row_tokens: int
    accumulate: int
    workers: int
    learning_rate: float
    warm_up: float
    weight_decay: float
    clip_norm: float
    noise: float
    optimizer: str
    precision: str
    validate_every: int
    keep_best: bool
    seed: int

    def batching(self, chunk: int, rank: int = 0) -> Batching:
        """The cut of the batches. Raises LMError when rows, processes and parts do not fit."""
        return Batching(
            rows=self.rows,
            row_tokens=self.row_tokens,
            chunk=chunk,
            seed=self.seed,
            accumulate=self.accumulate,
            rank=rank,
            world=self.workers,
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that a training process is told; travels to it by Ray.

    valid: None validates nothing. tokenizer: None of tokens that name none. encoder: a WavLM's
    local folder to start from its upper layers; None starts from random weights. output: a
    pipeline.storage.Folder. show: called with a name, steps done, steps in all, and what to say.
    readers: processes that read tokens. threads: of a CPU; None leaves PyTorch's.
    """

    config: LMConfig
    settings: TrainingSettings
    train: TokenShards
    valid: TokenShards | None
    tokenizer: TokenizerFiles | None
    encoder: Path | None
    output: Any
    show: Callable[[str, int, int, str], None]
    device: str
    checkpoint_minutes: float
    keep: int
    log_every: int
    compile: bool
    readers: int
    threads: int | None


def build_model(
    config: LMConfig, tokenizer: TokenizerFiles | None, encoder: Path | None, seed: int
) -> SpeechLM:
    """The model as training begins. Raises LMError when its parts do not fit together."""
    torch.manual_seed(seed)
    model = SpeechLM.from_tokenizer(config, tokenizer) if tokenizer else SpeechLM(config)
    if encoder:
        from transformers import WavLMModel  # two seconds, which most trainings can do without

        start_from_wavlm(model, WavLMModel.from_pretrained(encoder), tokenizer.encoder.layer)
    return model


def train_in_process(config: dict) -> None:
    """Train to the end; run by Ray Train with {"run": a Run}.

    Raises FloatingPointError when the loss is no number any more.
    """
    run: Run = config["run"]
    if run.threads:
        torch.set_num_threads(run.threads)
    _Training(run).train()


class _Training:
    def __init__(self, run: Run) -> None:
        self.run, self.settings = run, run.settings
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.device = torch.device(run.device)
        model = build_model(run.config, run.tokenizer, encoder=run.encoder, seed=self.settings.seed)
        self.model = model.to(self.device).train()
        self.forward: nn.Module = torch.compile(model) if run.compile else model
        settings = self.settings
        self.optimizers = make_optimizers(
            model,
            settings.optimizer,
            rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.folder = run.output.below("training")
        self.step, position, self.lines = load_checkpoint(self.folder, model, self.optimizers)
        batching = settings.batching(run.config.chunk, self.rank)
        self.stream = TokenStream(run.train, batching, run.readers)
        self.stream.load_state_dict(position)
        self.dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32

    def train(self) -> None:
        """All steps that are left, and the model's folder."""
        run, settings = self.run, self.settings
        speed = Speed(self.model.config, matmul_flops(self.device, self.dtype), settings.workers)
        saved, said = time.monotonic(), ""
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        while self.step < settings.steps:
            totals += self._step(speed)
            if self.rank == 0:
                run.show("train", self.step, settings.steps, said)
            last = self.step == settings.steps
            every = settings.validate_every
            validate = run.valid is not None and (last or (every and self.step % every == 0))
            if not (last or validate or self.step % run.log_every == 0):
                continue
            line = self._line(totals, speed)
            totals.zero_()
            if validate:
                line["valid_bits_per_token"] = round(self._validate(), 4)
                self._keep_if_best(line)
            self.lines.append(line)
            speed.start()
            said = f"{line['bits_per_token']:.3f} bits, {line['tokens_per_second']:,.0f} tokens/s"
            late = time.monotonic() - saved > 60 * run.checkpoint_minutes
            if self.rank == 0 and (late or last):
                state = self.stream.state_dict()
                parts = (self.model, self.optimizers, self.step, state, self.lines)
                save_checkpoint(self.folder, *parts, run.keep)
                saved = time.monotonic()
        if self.rank == 0:
            self._write()

    def _step(self, speed: Speed) -> Tensor:
        """One step. Returns (2,): the sum of its losses in nats, and how many there were."""
        settings, chunk = self.settings, self.run.config.chunk
        parts = [next(self.stream) for _ in range(settings.accumulate)]
        wanted = [targets(*part, chunk) for part in parts]
        count = torch.tensor([float(sum(int((own >= 0).sum()) for own in wanted))])
        count = count.to(self.device)
        sum_over_processes([count])
        total = torch.zeros(1, device=self.device)
        for number, ((tokens, utterance), own) in enumerate(zip(parts, wanted)):
            torch.manual_seed(self._draw(number))
            speed.count(utterance)
            tokens = self._disturbed(tokens).to(self.device, non_blocking=True)
            utterance = utterance.to(self.device, non_blocking=True)
            with self._autocast():
                losses = token_losses(self.forward(tokens, utterance), own.to(self.device))
            loss = losses.sum()
            (loss / count).sum().backward()
            total += loss.detach()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        sum_over_processes([*gradients, total])
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        rate = rate_at(
            self.step, settings.steps, highest=settings.learning_rate, warm_up=settings.warm_up
        )
        set_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.rate, self.norm = rate, norm
        self.step += 1
        return torch.cat([total, count]).double()

    def _disturbed(self, tokens: Tensor) -> Tensor:
        """(B, T) with a share of the tokens replaced by any others."""
        if not self.settings.noise:
            return tokens
        drawn = torch.randint(self.run.config.codebook_size, tokens.shape)
        struck = (torch.rand(tokens.shape) < self.settings.noise) & (tokens >= 0)
        return torch.where(struck, drawn, tokens)

    def _draw(self, part: int) -> int:
        """A seed for a part of this step in this process."""
        own = json.dumps([self.settings.seed, self.step, self.rank, part]).encode()
        return int.from_bytes(blake2b(own, digest_size=8).digest()) >> 1

    def _autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _line(self, totals: Tensor, speed: Speed) -> dict:
        nats, count = totals.tolist()
        bits = nats / max(count, 1) / math.log(2)
        if not math.isfinite(bits):
            raise FloatingPointError(
                f"the loss is {bits} at step {self.step}: give a lower learning rate and another "
                "output folder"
            )
        before = self.lines[-1] if self.lines else {"tokens": 0, "hours": 0.0}
        tokens_per_second, used, seconds = speed.measure(count)
        return {
            "step": self.step,
            "bits_per_token": round(bits, 4),
            "learning_rate": self.rate,
            "gradient_norm": round(float(self.norm), 4),
            "tokens": before["tokens"] + int(count),
            "tokens_per_second": round(tokens_per_second, 1),
            "flops_utilisation": round(used, 4),
            "hours": round(before["hours"] + seconds / 3600, 5),
            "time": round(time.time(), 1),
        }

    def _validate(self) -> float:
        """Bits per token over all utterances of `valid`, shared by the processes."""
        self.model.eval()
        with torch.inference_mode(), self._autocast():
            bits = bits_per_token(
                self.model, self.run.valid, rank=self.rank, processes=self.settings.workers
            )
        self.model.train()
        return bits

    def _keep_if_best(self, line: dict) -> None:
        """Mark the line as the best so far, and with keep_best publish its model."""
        before = [old["best_bits_per_token"] for old in self.lines if "best_bits_per_token" in old]
        line["best_bits_per_token"] = min([*before[-1:], line["valid_bits_per_token"]])
        best = not before or line["valid_bits_per_token"] < before[-1]
        if best and self.settings.keep_best and self.rank == 0:
            self._publish_model("training/best", line)

    def _write(self) -> None:
        """OUTPUT/model: of the last step, or of the best validation."""
        output, last = self.run.output, self.lines[-1]
        if self.settings.keep_best and output.read_text("training/best/config.json"):
            for name in output.names("training/best", ""):
                with tempfile.TemporaryDirectory() as scratch:
                    local = Path(scratch) / "file"
                    output.fs.get_file(output.path(f"training/best/{name}"), str(local))
                    output.publish(local, f"model/{name}")
        else:
            self._publish_model("model", last)
        self.folder.sweep()
        output.sweep()

    def _publish_model(self, name: str, line: dict) -> None:
        """A model's folder, its configuration last: a folder without one is none."""
        made_by = {"settings": asdict(self.settings), **line}
        with tempfile.TemporaryDirectory() as scratch:
            save_lm(Path(scratch), self.model, tokenizer=self.run.tokenizer, made_by=made_by)
            files = [path for path in Path(scratch).rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: path == Path(scratch) / "config.json"):
                self.run.output.publish(path, f"{name}/{path.relative_to(scratch)}")
