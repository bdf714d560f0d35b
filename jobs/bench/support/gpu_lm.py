"""The sections of jobs/bench/gpu.py about the language model."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from jobs.bench.support.gpu_table import GPUTable
from lm.attention import BandAttention, FlexAttention
from lm.config import PRESETS, START, LMConfig
from lm.generation import Generator, Sampling
from lm.model import SpeechLM, targets, token_losses

CODES = 4096
PARTS = ("output", "gradient of q", "of k", "of v", "of the gate", "of the bias")


@dataclass
class LanguageModels:
    """Training and generation in the shape of `large`, of `tiny` with --small."""

    table: GPUTable

    def config(self) -> LMConfig:
        """Learned embeddings as inputs."""
        shape: dict[str, Any] = PRESETS["tiny" if self.table.small else "large"]
        config = LMConfig(codebook_size=CODES, **shape, inputs="embedding")
        if self.table.small:
            config = replace(config, codebook_size=64, layers=1, window=32)
        return config

    def gradients(self) -> None:
        """FlexAttention here against BandAttention on the CPU, in fp32."""
        config = replace(self.config(), width=256, heads=4, window=64)
        torch.manual_seed(0)
        length = 256
        utterance = torch.zeros(2, length, dtype=torch.int32)
        utterance[0, 100:], utterance[1, 200:] = 1, -1
        inputs = [torch.randn(2, 4, length, 64) for _ in range(3)] + [torch.rand(2, 4, length)]
        table, weight = torch.randn(config.num_buckets, 4), torch.randn(2, 4, length, 64)

        def results(device: str, attention: Any, *more: Any) -> list[torch.Tensor]:
            # On a CPU FlexAttention has no backward pass: there its output alone is compared.
            learns = attention is BandAttention or device == "cuda"
            own = [x.to(device).requires_grad_(learns) for x in [*inputs, table]]
            out = attention(utterance.to(device), own[-1], config, *more)(*own[:-1])
            if not learns:
                return [out]
            (out * weight.to(device)).sum().backward()
            return [out, *(x.grad for x in own if x.grad is not None)]

        expected = results("cpu", BandAttention, torch.float32)
        for name, a, b in zip(PARTS, expected, results(self.table.device, FlexAttention)):
            error = float((a.detach() - b.detach().cpu()).norm() / a.detach().norm())
            self.table.row(f"FlexAttention, {name}", f"{error:.1e}", error < 1e-2, "relative error")

    def training(self) -> None:
        """Whole steps in bf16: tokens a second, and model FLOP utilisation."""
        table, length = self.table, 64 if self.table.small else 1024
        top = table.ceiling("bf16")
        cases = [(2, False)] if table.small else [(16, False), (16, True), (48, True)]
        for rows, compiled in cases:
            torch.manual_seed(0)
            model = SpeechLM(self.config()).to(table.device).train()
            config = model.config
            forward: Any = torch.compile(model) if compiled else model
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
            tokens = torch.randint(0, config.codebook_size, (rows, length), device=table.device)
            tokens[:, : config.chunk] = START
            utterance = torch.zeros_like(tokens, dtype=torch.int32)
            wanted = targets(tokens, utterance, config.chunk)
            count = (wanted >= 0).sum()
            losses: list[torch.Tensor] = []
            table.reset_peak()

            def step(
                forward: Any = forward,
                optimizer: torch.optim.Optimizer = optimizer,
                batch: tuple = (tokens, utterance, wanted, count, losses),
            ) -> None:
                tokens, utterance, wanted, count, losses = batch
                with torch.autocast(table.device, torch.bfloat16):
                    loss = token_losses(forward(tokens, utterance), wanted).sum() / count
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.detach())

            rate = tokens.numel() / table.seconds(step, 3 if table.small else 8, warm=2)
            # A token sees half of the row's tokens on average, and no more than the window.
            flops = 3 * rate * config.flops_per_token(min(length / 2, config.window))
            first, last = float(losses[0]), float(losses[-1])
            peak = table.stated_peak()
            used = f"{flops / peak:.3f} MFU" if peak else "MFU unknown"
            note = f"{used}, {flops / top:.2f} of products, loss {first:.2f} to {last:.2f}"
            name = f"LM training, {'compiled' if compiled else 'plain'}, {rows} x {length}"
            table.row(name, f"{rate:,.0f} tokens/s", last < first, f"{note} {table.peak()}")

    def generation(self) -> None:
        """Greedy tokens as the CPU's, and tokens a second with the window full."""
        table = self.table
        torch.manual_seed(0)
        model = SpeechLM(self.config()).eval()
        config = model.config
        random = np.random.default_rng(0)
        prompt = random.integers(0, config.codebook_size, config.window)
        greedy, said = Sampling(temperature=0), []
        for device in ("cpu", table.device):
            generator = Generator(copy.deepcopy(model).to(device))
            said += generator.generate([prompt], 40, [0], sampling=greedy)
        table.share("generation, fp32: as the CPU", float((said[0] == said[1]).mean()), 0.9)
        generator = Generator(model.to_precision(torch.bfloat16).to(table.device))
        for batch in (1, 4) if table.small else (1, 16, 128):
            stream = generator.chunks([prompt] * batch, list(range(batch)))
            steps = 3 if table.small else 20
            took = table.seconds(lambda: [next(stream) for _ in range(steps)]) / steps  # noqa: B023
            name, note = f"generation, bf16, batch of {batch}", f"{1e3 * took:.1f} ms a step"
            table.row(name, f"{batch * config.chunk / took:,.0f} tokens/s", None, note)
