"""The training of a language model on rows of tokens: what one training process does.

The loop is tokenizer/training/loop.py's, with all it promises: a killed training ends with the same
bits, and one process or several give the same loss. Here are the model, its loss, its log and its
validation.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lm.config import LMConfig, LMError
from lm.files import read_lm, save_lm
from lm.from_wavlm import start_from_wavlm
from lm.model import SpeechLM, targets, token_losses
from lm.training.data import TokenShards
from lm.training.rows import RowLayout, RowStream
from lm.training.settings import LMTrainingSettings
from lm.training.speed import FlopCounter, matmul_flops
from lm.training.validation import bits_per_token
from tokenizer.config import EncoderConfig
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.loop import Interval, Loss, Show, Training, autocast, train
from tokenizer.training.optimizers import make_optimizers
from tokenizer.training.processes import process_rank, summed_in_backward
from tokenizer.training.settings import RuntimeSettings

ADAM_BETAS = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class LMRun:
    """Everything that a training process needs; Ray sends it there.

    valid: to validate on, or None. tokenizer: None for tokens that name none. encoder: local folder
    of a WavLM whose upper layers the model starts from, or None. start: local folder of a language
    model whose weights it starts from, or None; with neither, weights are random. output: gets
    training/ and model/. threads: of the CPU; None leaves PyTorch's number.
    """

    config: LMConfig
    settings: LMTrainingSettings
    runtime: RuntimeSettings
    train: TokenShards
    valid: TokenShards | None
    tokenizer: TokenizerFiles | None
    encoder: Path | None
    start: Path | None
    output: Folder
    show: Show
    compile: bool
    threads: int | None


def build_model(
    config: LMConfig,
    tokenizer: TokenizerFiles | None,
    *,
    encoder: Path | None,
    start: Path | None,
    seed: int,
) -> SpeechLM:
    """The model before the first step. Raises LMError when its parts do not fit together.

    encoder, start: as LMRun's. With `start` its weights are those in that folder.
    """
    torch.manual_seed(seed)
    if start:
        model = SpeechLM(config)
        model.load_state_dict(read_lm(start)[0].state_dict())
        return model
    model = SpeechLM.from_tokenizer(config, tokenizer) if tokenizer else SpeechLM(config)
    if encoder:
        assert tokenizer is not None and isinstance(tokenizer.encoder, EncoderConfig)
        if not tokenizer.encoder.position_bias:
            raise LMError("a model starts from a WavLM's layers only on features of a WavLM")
        from transformers import WavLMModel  # takes two seconds, and most trainings need none

        start_from_wavlm(model, WavLMModel.from_pretrained(encoder), tokenizer.encoder.layer)
    return model


def train_in_process(config: dict) -> None:
    """Train to the end and write the model. config: {"run": an LMRun}, as Ray Train hands it over.

    Raises TrainingFailed when the loss is not finite.
    """
    run: LMRun = config["run"]
    if run.threads:
        torch.set_num_threads(run.threads)
    LMTrainer(run).train()


def lm_optimizers(
    model: nn.Module, optimizer: str, learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimizers of a language model; optimizer: "adamw", or "muon" for the layers' matrices.

    Only weights of linear layers decay, not norms, biases, embeddings or position biases.
    """
    linear = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    return make_optimizers(
        model,
        muon={name for name in linear if optimizer == "muon" and "layers." in name},
        decayed=linear,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        betas=ADAM_BETAS,
    )


class LMTrainer:
    """A language model's loss, log and validation, for the training loop."""

    def __init__(self, run: LMRun) -> None:
        self.run, self.settings = run, run.settings
        self.device = torch.device(run.runtime.device)
        model = build_model(
            run.config,
            run.tokenizer,
            encoder=run.encoder,
            start=run.start,
            seed=self.settings.seed,
        )
        self.model = model.to(self.device).train()
        self.parallel = summed_in_backward(self.model, self.device)
        forward = self.parallel or self.model
        self.forward: Callable[..., Tensor] = torch.compile(forward) if run.compile else forward
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
        self.flops = FlopCounter(run.config, matmul_flops(self.device, dtype))

    def train(self) -> None:
        """Do the steps that are left, and write OUTPUT/model."""
        run, settings = self.run, self.settings
        layout = RowLayout.of(settings, run.config, process_rank())
        lines = train(
            Training(
                name="train",
                model=self.model,
                optimizers=lm_optimizers(
                    self.model,
                    settings.optimizer,
                    learning_rate=settings.learning_rate,
                    weight_decay=settings.weight_decay,
                ),
                stream=RowStream(run.train, layout, run.runtime.readers),
                loss=self._loss,
                settings=settings,
                runtime=run.runtime,
                folder=run.output.below("training"),
                line=self._line,
                text=_text,
                show=run.show,
                validate=self._validate if run.valid else None,
                validate_every=settings.validate_every,
                parallel=self.parallel,
            )
        )
        if process_rank() == 0:
            self._write(lines)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Loss:
        """The sum of the targets' losses, in nats. batch: tokens (B, T) and utterance (B, T)."""
        tokens, utterance = batch
        wanted = targets(tokens, utterance, self.run.config.chunk)
        self.flops.count(utterance)
        tokens = self._with_noise(tokens).to(self.device, non_blocking=True)
        logits = self.forward(tokens, utterance.to(self.device, non_blocking=True))
        losses = token_losses(logits, wanted.to(self.device, non_blocking=True))
        return Loss(losses.sum(), int((wanted >= 0).sum()))

    def _with_noise(self, tokens: Tensor) -> Tensor:
        """(B, T) with a share of the tokens replaced by random ones."""
        if not self.settings.noise:
            return tokens
        random_tokens = torch.randint(self.run.config.codebook_size, tokens.shape)
        replaced = (torch.rand(tokens.shape) < self.settings.noise) & (tokens >= 0)
        return torch.where(replaced, random_tokens, tokens)

    def _line(self, interval: Interval) -> dict:
        before = interval.before or {"tokens": 0, "hours": 0.0}
        seconds = interval.seconds
        return {
            "step": interval.step,
            "bits_per_token": round(interval.loss / math.log(2), 4),
            "learning_rate": interval.learning_rate,
            "gradient_norm": round(interval.gradient_norm, 4),
            "tokens": before["tokens"] + int(interval.count),
            "tokens_per_second": round(interval.count / seconds, 1),
            "flops_utilisation": round(self.flops.take_utilisation(seconds), 4),
            "hours": round(before["hours"] + seconds / 3600, 5),
        }

    def _validate(self, line: dict, lines: list[dict]) -> None:
        """Add bits per token on `valid` to the line; publish the model if it is the best so far."""
        assert self.run.valid is not None
        self.model.eval()
        with torch.inference_mode(), autocast(self.device, self.settings.precision):
            bits = round(bits_per_token(self.model, self.run.valid), 4)
        self.model.train()
        earlier = [old["best_bits_per_token"] for old in lines if "best_bits_per_token" in old]
        line["valid_bits_per_token"] = bits
        line["best_bits_per_token"] = min([*earlier[-1:], bits])
        is_best = not earlier or bits < earlier[-1]
        if is_best and self.settings.keep_best and process_rank() == 0:
            self._publish_model("training/best", line)

    def _write(self, lines: list[dict]) -> None:
        """OUTPUT/model: of the last step, or of the best validation."""
        output = self.run.output
        if self.settings.keep_best and output.read_text("training/best/config.json"):
            output.fs.invalidate_cache()
            best = fetch_folder(output.below("training/best").url, "a language model")
            output.publish_folder(best, "model")
        else:
            self._publish_model("model", lines[-1])
        output.below("training").sweep()
        output.sweep()

    def _publish_model(self, name: str, line: dict) -> None:
        made_by = {"settings": asdict(self.settings), **line}
        with scratch_folder() as scratch:
            save_lm(scratch, self.model, tokenizer=self.run.tokenizer, made_by=made_by)
            self.run.output.publish_folder(scratch, name)


def _text(line: dict) -> str:
    return f"{line['bits_per_token']:.3f} bits, {line['tokens_per_second']:,.0f} tokens/s"
