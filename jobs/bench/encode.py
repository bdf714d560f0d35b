"""Measure the encoder and the whole job against the machine's ceiling and Hugging Face's WavLM.

One run, one machine, one set of utterances of 2 to 20 s, a wavlm-large with random weights. Rows
take turns, so that a noisy machine slows all of them alike; each row is the median of its turns.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

import json
import statistics
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import WavLMConfig, WavLMModel
from transformers.utils import logging as transformers_logging

from jobs.bench.support.ceiling import gemm_rate
from jobs.bench.support.models import SHAPES, distilled, random_encoder
from jobs.bench.support.speech import make_utterances, write_shards
from jobs.bench.support.timing import Row
from jobs.cli import flags
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.config import EncoderConfig
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import PRECISIONS, Tokenizer

CODES = 1024
LAYER, LARGE = SHAPES["wavlm-large"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all rows of one device share. batch: utterances in one."""

    device: str
    model: WavLMModel
    files: TokenizerFiles
    waves: list[np.ndarray]
    batch: int
    turns: int

    @property
    def audio_seconds(self) -> float:
        """Of all utterances together."""
        return sum(map(len, self.waves)) / SAMPLE_RATE

    @property
    def flops_per_second(self) -> float:
        """Of the layers used, for a second of this audio."""
        encoder, total = self.files.encoder, 0.0
        assert isinstance(encoder, EncoderConfig)
        for wave in self.waves:
            seconds = len(wave) / SAMPLE_RATE
            total += seconds * encoder.flops_per_second(seconds)
        return total / self.audio_seconds


def hugging_face(model: WavLMModel, bench: Bench, hidden: bool) -> None:
    """Run one padded batch after the other, as the model's documentation does."""
    for first in range(0, len(bench.waves), bench.batch):
        part = [torch.from_numpy(wave) for wave in bench.waves[first : first + bench.batch]]
        padded = torch.nn.utils.rnn.pad_sequence(part, batch_first=True).to(bench.device)
        lengths = torch.tensor([len(wave) for wave in part])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long().to(bench.device)
        model(padded, attention_mask=mask, output_hidden_states=hidden)


def run_job(scratch: Path, precision: str, device: str) -> dict:
    """jobs/tokenize.py as a person runs it; the part of its summary about this run."""
    output = tempfile.mkdtemp(dir=scratch)
    command = [sys.executable, str(ROOT / "jobs" / "tokenize.py"), "--precision", precision]
    command += ["--device", device, "--input", str(scratch / "shards")]
    command += ["--tokenizer", str(scratch / "tokenizer"), "--output", output]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((Path(output) / "summary.json").read_text())["this_run"]


def our_row(name: str, files: TokenizerFiles, precision: str, bench: Bench) -> Row:
    """A row of this project's tokenizer: waveforms to tokens, the codebook lookup included."""
    tokenizer = Tokenizer(files, bench.device, precision)
    # Batches of like length, as the job forms them.
    ordered = sorted(bench.waves, key=len)
    batches = [
        ordered[first : first + bench.batch] for first in range(0, len(ordered), bench.batch)
    ]
    return Row(name=name, run=lambda: [tokenizer.encode_windows(part) for part in batches])


def device_rows(bench: Bench) -> list[Row]:
    """Rows 2 to 5 on one device; 5d has a compressor between encoder and codebook."""
    files, compressed = bench.files, distilled(bench.files, CODES)
    full: Any = bench.model
    full.to(bench.device)
    cut: Any = WavLMModel(WavLMConfig(**{**LARGE, "num_hidden_layers": LAYER})).eval()
    cut.to(bench.device)
    cut.load_state_dict(full.state_dict(), strict=False)
    return [
        Row(
            name="2 Hugging Face, 24 layers, fp32",
            run=lambda: hugging_face(full, bench, hidden=True),
        ),
        Row(
            name="3 Hugging Face, 6 layers, fp32",
            run=lambda: hugging_face(cut, bench, hidden=False),
        ),
        our_row("4 ours, fp32", files, "fp32", bench=bench),
        our_row("5 ours, bf16", files, "bf16", bench=bench),
        our_row("5d ours, bf16, distilled", compressed, "bf16", bench=bench),
    ]


def show(name: str, speed: float, against: dict[str, float], note: str = "") -> None:
    """One line of the table: seconds of audio per second, and the ratios to other rows."""
    ratios = "  ".join(f"{speed / other:5.2f} x {label}" for label, other in against.items())
    print(f"{name:<36}{speed:9.1f}  {ratios:<46}{note}", flush=True)


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__, "python jobs/bench/encode.py --utterances 8 --turns 3")
    parser.add_argument(
        "--utterances", type=flags.positive, default=8, help="in the set (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=flags.positive, default=8, help="utterances in one (default: %(default)s)"
    )
    parser.add_argument(
        "--turns", type=flags.positive, default=3, help="of each row (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats",
        type=flags.positive,
        default=4,
        help="of the set, in each of the job's four shards (default: %(default)s)",
    )
    parser.add_argument(
        "--only-job", action="store_true", help="rows 5 and 6 alone: the job beside its encoder"
    )
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    args = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Hugging Face's attention warns about its own masks.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    torch.set_grad_enabled(False)
    waves = make_utterances(args.utterances)
    audio = sum(map(len, waves)) / SAMPLE_RATE
    print(f"{len(waves)} utterances, {audio:.0f} s of audio, {torch.get_num_threads()} threads")
    print(f"{'row':<36}{'audio s/s':>9}")
    with tempfile.TemporaryDirectory(prefix="wavmill-bench-") as folder:
        scratch = Path(folder)
        (scratch / "shards").mkdir()
        shards_audio = write_shards(scratch / "shards", waves, shards=4, repeats=args.repeats)
        model, files = random_encoder(scratch, CODES)
        for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            bench = Bench(
                device=device,
                model=model,
                files=files,
                waves=waves,
                batch=args.batch,
                turns=args.turns,
            )
            if args.only_job:
                row = our_row("5 ours, bf16", files, "bf16", bench=bench)
                row.run()
                show_job(bench, row, scratch, shards_audio=shards_audio)
            else:
                bench_device(bench, scratch, shards_audio)
    return 0


def bench_device(bench: Bench, scratch: Path, shards_audio: float) -> None:
    """All rows on one device. shards_audio: seconds in the shards that row 6 tokenizes."""
    flops = bench.flops_per_second
    rows = device_rows(bench)
    for row in rows:
        row.run()
    rates: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for _ in range(bench.turns):
        for name, measured in rates.items():
            measured.append(gemm_rate(PRECISIONS[name], bench.device, turns=3))
        for row in rows:
            row.turn()
    ceilings = {name: statistics.median(measured) / flops for name, measured in rates.items()}
    print(f"-- {bench.device}: {flops / 1e9:.2f} GFLOP a second of audio (layers 1 to {LAYER})")
    for name, ceiling in ceilings.items():
        note = f"{ceiling * flops / 1e9:.0f} GFLOP/s"
        show(f"1 ceiling, {name} products", ceiling, against={}, note=note)
    speeds = [bench.audio_seconds / row.median for row in rows]
    full, cut, _, plain = speeds[:4]
    for row, speed in zip(rows, speeds):
        against = {"row 2": full, "row 3": cut}
        if row.name.startswith("5d"):
            against = {"row 5": plain}
        elif "ours" in row.name:
            against["ceiling"] = ceilings["bf16" if "bf16" in row.name else "fp32"]
        show(row.name, speed, against=against, note=f"+{row.peak_mb:.0f} MB peak")
    show_job(bench, rows[3], scratch, shards_audio=shards_audio)


def show_job(bench: Bench, row: Row, scratch: Path, shards_audio: float) -> None:
    """Row 6: the job, against `row` over as much audio, by turns.

    A machine may slow down under a long load, so both get the same load.
    """
    turns = []
    for _ in range(bench.turns):
        row.seconds = []
        for _ in range(round(shards_audio / bench.audio_seconds)):
            row.turn()
        job_speed = run_job(scratch, "bf16", bench.device)["times_real_time"]
        turns.append((job_speed, shards_audio / sum(row.seconds)))
    job, beside = (statistics.median(column) for column in zip(*turns))
    note = f"{shards_audio:.0f} s of audio; row 5 over as much, by turns: {beside:.1f}"
    show("6 the whole job, bf16, through Ray", job, against={"row 5": beside}, note=note)


if __name__ == "__main__":
    flags.run(main)
