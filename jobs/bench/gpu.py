"""Check and measure what runs on a GPU, in one table and under 8 minutes.

Agreement with the CPU, waits for the device, speed of encoding by batch size beside the device's
matrix products and Hugging Face's WavLM, decoding, and the language model. Each section stands
alone: one that raises is a FAIL row, and the rest go on. Speeds have no verdict. With --small and
--device cpu it only shows that the program runs. Exit status 1 if a row fails.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import tempfile
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import WavLMConfig, WavLMModel
from transformers.utils import logging as transformers_logging

from jobs.bench.support import gpu_lm
from jobs.bench.support.gpu_table import GPUTable
from jobs.bench.support.models import SHAPES, distilled
from jobs.bench.support.speech import make_utterances
from jobs.cli import flags
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE, num_frames
from tokenizer.codec.codebook import Codebook
from tokenizer.config import EncoderConfig
from tokenizer.encoder.gpu.encoder import PackedWavLM
from tokenizer.encoder.wavlm import WavLM
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

SHIPPED = ("wavlm-tiny-km1024", "wavlm-tiny-d1024")
# The most that a batch of one pass may launch with the six layers of wavlm-large.
KERNELS_A_BATCH = 100
EQUAL = 0.999


@dataclass
class Encoders:
    """The sections about the encoder."""

    table: GPUTable
    budgets: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.budgets = (4, 8) if self.table.small else (60, 240, 960, 3840)

    @cached_property
    def large(self) -> tuple[WavLMModel, TokenizerFiles]:
        """Random weights in wavlm-large's shape, cut at its layer; wavlm-tiny's with --small."""
        layer, shape = SHAPES["wavlm-tiny" if self.table.small else "wavlm-large"]
        torch.manual_seed(0)
        model = WavLMModel(WavLMConfig(**{**shape, "num_hidden_layers": layer})).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config, encoder = read_encoder(Path(folder), layer)
        weights = {f"encoder.{name}": value for name, value in encoder.items()}
        weights["codebook.codes"] = torch.randn(1024, config.hidden_size)
        return model, TokenizerFiles(config, "l2", weights)

    @cached_property
    def utterances(self) -> list[np.ndarray]:
        """Of 2 to 20 s."""
        return make_utterances(4 if self.table.small else 16)

    def batch(self, seconds: float, window: float | None = None) -> list[np.ndarray]:
        """Windows that add up to about so many seconds, of 2 to 20 s or all of `window` s."""
        base = self.utterances
        if window:
            speech, size = np.concatenate(base), int(window * SAMPLE_RATE)
            count = max(1, round(seconds / window))
            return [np.resize(np.roll(speech, i * 1601), size) for i in range(count)]
        waves: list[np.ndarray] = []
        while sum(map(len, waves)) < seconds * SAMPLE_RATE:
            waves.append(base[len(waves) % len(base)])
        return sorted(waves, key=len)

    def agreement(self) -> None:
        """Tokens as the CPU's in fp32, and the same whatever is in the batch."""
        table, waves = self.table, self.utterances
        models = {name: TokenizerFiles.read(PRETRAINED / name) for name in SHIPPED}
        models["random weights"] = self.large[1]
        for name, files in models.items():
            few = waves[:4] if name == "random weights" else waves
            cpu = Tokenizer(files).encode_windows(few)
            for precision, least in (("fp32", EQUAL), ("bf16", 0.9)):
                tokenizer = Tokenizer(files, table.device, precision)
                batch = tokenizer.encode_windows(few)
                alone = [tokenizer.encode_windows([wave])[0] for wave in few]
                again = tokenizer.encode_windows(few)
                table.share(f"{name}, {precision}: as the CPU in fp32", equal(cpu, batch), least)
                least = EQUAL if precision == "fp32" else 0.99
                table.share(f"{name}, {precision}: in a batch as alone", equal(alone, batch), least)
                table.share(f"{name}, {precision}: twice the same", equal(batch, again), 1)

    def decode(self) -> None:
        """The same speech as the CPU's, and how fast."""
        table, files = self.table, TokenizerFiles.read(PRETRAINED / SHIPPED[1])
        cpu, ours = Tokenizer(files), Tokenizer(files, table.device)
        tokens = cpu.encode_windows(self.utterances[:1])[0]
        error = float(np.abs(cpu.decode(tokens) - ours.decode(tokens)).max())
        table.row("decoding: largest difference from the CPU", f"{error:.1e}", error < 1e-2)
        many = np.tile(tokens, 4 if table.small else 60)
        took = table.seconds(lambda: ours.decode(many))
        table.row(
            "decoding, one utterance", f"{len(many) / FRAMES_PER_SECOND / took:,.0f} x real time"
        )

    def waits(self) -> None:
        """No wait for the device inside a batch, and few kernels."""
        table, batch = self.table, self.batch(self.budgets[0])
        if table.device == "cpu":
            return table.row("waits and kernels of a batch", "only on a GPU")
        for name, files in (("k-means", self.large[1]), ("distilled", self.distilled)):
            tokenizer = Tokenizer(files, table.device, "bf16")
            tokenizer.encode_windows(batch)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                wait = tokenizer.start_windows(batch)
                torch.cuda.set_sync_debug_mode("default")
            wait()
            places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught)
            table.row(f"{name}: waits inside a batch", str(len(caught)), not caught, str(places))
            activities = [torch.profiler.ProfilerActivity.CUDA]
            with torch.profiler.profile(activities=activities) as profile:
                tokenizer.encode_windows(batch)
            kernels = sum("Mem" not in event.name for event in profile.events())
            most = KERNELS_A_BATCH if name == "k-means" else 2 * KERNELS_A_BATCH
            table.row(f"{name}: kernels of a batch", str(kernels), kernels <= most)
        return None

    @cached_property
    def distilled(self) -> TokenizerFiles:
        """The random tokenizer with a compressor."""
        return distilled(self.large[1], 1024)

    def encode(self) -> None:
        """Audio seconds a second, and the share of what matrix products reach."""
        table, files = self.table, self.large[1]
        top = {name: table.ceiling(name) for name in ("bf16", "fp32")}
        for budget in self.budgets:
            for window in (None, 30.0) if not table.small else (None,):
                name = f"bf16, batch of {budget} s, windows of {window or '2 to 20'} s"
                self.speed(name, files, "bf16", batch=self.batch(budget, window), top=top["bf16"])
        middle = self.batch(self.budgets[1])
        self.speed("fp32", files, "fp32", batch=middle, top=top["fp32"])
        self.speed("distilled, bf16", self.distilled, "bf16", batch=middle, top=top["bf16"])

    def speed(
        self, name: str, files: TokenizerFiles, precision: str, *, batch: list, top: float
    ) -> None:
        """One row. top: FLOP/s of matrix products."""
        table, tokenizer = self.table, Tokenizer(files, self.table.device, precision)
        assert isinstance(files.encoder, EncoderConfig)
        lengths = [len(wave) / SAMPLE_RATE for wave in batch]
        flops = sum(n * files.encoder.flops_per_second(n) for n in lengths)
        table.reset_peak()

        def both() -> None:
            # As the job: the next batch is started before this one's tokens are awaited.
            first, second = tokenizer.start_windows(batch), tokenizer.start_windows(batch)
            first()
            second()

        took = table.seconds(both) / 2
        note = f"{flops / took / 1e12:.1f} TFLOP/s, {flops / took / top:.2f} of products"
        table.row(name, f"{sum(lengths) / took:,.0f} x real time", None, f"{note} {table.peak()}")

    def parts(self) -> None:
        """Where the time of a pass goes: each function awaited."""
        table, spent = self.table, defaultdict[str, float](float)
        tokenizer = Tokenizer(self.large[1], table.device, "bf16")
        batch, whole = self.batch(self.budgets[1]), PackedWavLM._run
        if tokenizer.passes is None or not isinstance(tokenizer.encoder, WavLM):
            return table.row("parts of a pass", "only on a GPU")
        tokenizer.encode_windows(batch)

        def timed(encoder: PackedWavLM, function: Any, *args: Any) -> Any:
            result: list[Any] = []
            call = lambda: result.append(whole(encoder, function, *args))  # noqa: E731
            spent[function.__name__] += table.seconds(call, turns=1, warm=0)
            return result[0]

        with mock.patch.object(PackedWavLM, "_run", timed):
            total = table.seconds(lambda: tokenizer.encode_windows(batch), turns=1, warm=0)
        for name, took in spent.items():
            table.row(
                f"part of a pass: {name}", f"{1e3 * took:.2f} ms", None, f"{took / total:.2f}"
            )
        other = total - sum(spent.values())
        table.row("part of a pass: copies, codebook, Python", f"{1e3 * other:.2f} ms")
        lengths = [num_frames(len(wave)) for wave in batch]
        x = torch.randn(1, sum(lengths), self.large[1].width, device=table.device).bfloat16()
        position = tokenizer.encoder.position
        took = table.seconds(lambda: position(x))
        return table.row("cuDNN's positional convolution, to compare", f"{1e3 * took:.2f} ms")

    def codebooks(self) -> None:
        """Large codebooks: the shortlist's codes are those of all scores."""
        table, width = self.table, self.large[1].width
        for codes in (256,) if table.small else (1024, 16_384, 65_536):
            torch.manual_seed(0)
            vectors = torch.randn(codes, width)
            near = torch.randint(codes, (50 * self.budgets[1],))
            frames = (vectors[near] + torch.randn(len(near), width)).to(table.device)
            wanted: torch.Tensor | None = None
            for shortlist in (False, True):
                book = Codebook(vectors, device=table.device, shortlist=shortlist)
                took = table.seconds(partial(book.nearest, frames))
                found = book.nearest(frames)
                name = f"{codes} codes, {'shortlist' if shortlist else 'all scores in fp32'}"
                good = None if wanted is None else bool((found == wanted).float().mean() >= EQUAL)
                doubtful = float((book.lookup(frames) < 0).float().mean())
                table.row(name, f"{1e3 * took:.2f} ms", good, f"{doubtful:.4%} looked up twice")
                wanted = found

    def peer(self) -> None:
        """Hugging Face's WavLM of as many layers, bf16, on padded batches."""
        table, batch = self.table, self.batch(self.budgets[0])
        waves = [torch.from_numpy(wave).bfloat16() for wave in batch]
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True).to(table.device)
        ends = torch.tensor([len(wave) for wave in batch])
        mask = (torch.arange(padded.shape[1]) < ends[:, None]).long().to(table.device)
        model: Any = WavLMModel(self.large[0].config).eval()
        model.load_state_dict(self.large[0].state_dict())
        model.to(table.device, torch.bfloat16)
        with torch.inference_mode():
            took = table.seconds(lambda: model(padded, attention_mask=mask))
        rate = sum(map(len, batch)) / SAMPLE_RATE / took
        note = f"{len(model.encoder.layers)} layers, batch of {self.budgets[0]} s"
        table.row("Hugging Face's WavLM, bf16", f"{rate:,.0f} x real time", None, note)


def equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The share of tokens that are the same."""
    same = sum(int((a == b).sum()) for a, b in zip(ours, theirs, strict=True))
    return same / sum(map(len, ours))


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/bench/gpu.py --device cpu --small")
    flags.add_device(parser)
    parser.add_argument("--small", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument(
        "--minutes",
        type=flags.positive_number,
        default=8,
        help="sections that would begin later are left out, and fail (default: %(default)g)",
    )
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections alone")
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    args = parse()
    device = flags.chosen_device(args)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    table = GPUTable(device=device, small=args.small, minutes=args.minutes)
    encoders, models = Encoders(table), gpu_lm.LanguageModels(table)
    sections = [
        *(encoders.agreement, encoders.waits, encoders.encode, encoders.parts),
        *(encoders.codebooks, encoders.peer, encoders.decode),
        *(models.gradients, models.training, models.generation),
    ]
    return table.run_all([s for s in sections if not args.only or s.__name__ in args.only])


if __name__ == "__main__":
    flags.run(main)
