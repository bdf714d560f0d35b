"""Measure the encoder and the whole job against the machine's ceiling and Hugging Face's WavLM.

One run, one machine, one set of utterances of 2 to 20 s, a wavlm-large with random weights. Rows
take turns, so that a noisy machine slows all of them alike; each row is the median of its turns.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)

import contextlib
import ctypes
import io
import json
import statistics
import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from transformers import WavLMConfig, WavLMModel
from transformers.utils import logging as transformers_logging

from jobs.bench.models import SHAPES, distilled
from jobs.cli import flags
from pipeline.shards.inputs import find_shards
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.encoder.linear import InferenceLinear
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.tars import TarWriter
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

CODES = 1024
LAYER, LARGE = SHAPES["wavlm-large"]


@dataclass
class Row:
    """A line of the table: what is measured, seconds of each turn, and memory above the start."""

    name: str
    run: object
    seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    def turn(self) -> None:
        """Run once and note time and peak memory."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        before = _reset_peak()
        started = time.perf_counter()
        self.run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - started)
        self.peak_mb = max(self.peak_mb, _peak_mb() - before)

    @property
    def median(self) -> float:
        """Seconds of the median turn."""
        return statistics.median(self.seconds)


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return float("nan")


def _reset_peak() -> float:
    """Forget this process's peak memory (Linux); MB in use now."""
    # glibc keeps what earlier rows freed, and a row that reuses it would seem to need nothing.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return _status_mb("VmRSS")


def _peak_mb() -> float:
    return _status_mb("VmHWM")


def make_utterances(count: int) -> list[np.ndarray]:
    """Speech of `count` lengths spread evenly from 2 to 20 s, in an order that mixes them."""
    speech = []
    for shard in flags.named("--input", find_shards, [str(ROOT / "tests" / "speech")])[1]:
        with open_shard(shard) as stream:
            found = read_utterances(stream, keep_samples=1 << 30)
            speech += [utterance.waveform for _, utterance, _ in found]
    speech = np.concatenate(speech)
    random = np.random.default_rng(0)
    waves = []
    for seconds in random.permutation(np.linspace(2, 20, count)):
        length = int(seconds * SAMPLE_RATE)
        start = random.integers(len(speech) - length)
        wave = speech[start : start + length]
        waves.append((wave - wave.mean()) / wave.std())
    return waves


def gemm_rate(precision: torch.dtype, device: str, turns: int = 9) -> float:
    """FLOP per second of the fastest matrix product at hand, of the feed-forward's shape."""
    rows, narrow, wide = 2048, LARGE["hidden_size"], LARGE["intermediate_size"]
    rates = []
    for inner, outer in ((narrow, wide), (wide, narrow)):
        x = torch.randn(rows, inner, device=device, dtype=precision)
        weight = torch.randn(outer, inner, device=device, dtype=precision)
        for product in (InferenceLinear(weight), lambda x, w=weight: F.linear(x, w)):
            row = Row("", lambda x=x, product=product: [product(x) for _ in range(10)])
            for _ in range(turns):
                row.turn()
            rates.append(10 * 2 * rows * inner * outer / row.median)
    return max(rates)


def hugging_face(
    model: WavLMModel, waves: list[np.ndarray], hidden: bool, batch: int, device: str
) -> None:
    """Run a padded batch at a time, as the model's documentation does."""
    for first in range(0, len(waves), batch):
        part = [torch.from_numpy(wave) for wave in waves[first : first + batch]]
        padded = torch.nn.utils.rnn.pad_sequence(part, batch_first=True).to(device)
        lengths = torch.tensor([len(wave) for wave in part])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long().to(device)
        model(padded, attention_mask=mask, output_hidden_states=hidden)


def write_shards(folder: Path, waves: list[np.ndarray], shards: int, repeats: int) -> float:
    """Audio shards of the same utterances, `repeats` times in each. Returns seconds of audio."""
    flacs = []
    for wave in waves:
        data = io.BytesIO()
        soundfile.write(data, wave / np.abs(wave).max(), SAMPLE_RATE, format="FLAC")
        flacs.append(data.getvalue())
    for number in range(shards):
        tar = TarWriter(folder / f"bench-{number:06d}.tar")
        for repeat in range(repeats):
            for i, data in enumerate(flacs):
                tar.add(f"{number}-{repeat}-{i}.flac", data)
        tar.close()
    return shards * repeats * sum(map(len, waves)) / SAMPLE_RATE


def run_job(scratch: Path, precision: str, device: str) -> dict:
    """jobs/tokenize.py as a person runs it; its summary."""
    output = tempfile.mkdtemp(dir=scratch)
    command = [sys.executable, str(ROOT / "jobs" / "tokenize.py"), "--precision", precision]
    command += ["--device", device, "--input", str(scratch / "shards")]
    command += ["--tokenizer", str(scratch / "tokenizer"), "--output", output]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((Path(output) / "summary.json").read_text())["this_run"]


def make_models(scratch: Path) -> tuple[WavLMModel, TokenizerFiles]:
    """A wavlm-large with random weights, and a tokenizer folder with its lower layers."""
    torch.manual_seed(0)
    model = WavLMModel(WavLMConfig(**LARGE)).eval()
    model.save_pretrained(scratch / "encoder")
    config, weights = read_encoder(scratch / "encoder", LAYER)
    weights = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    weights["codebook.codes"] = torch.randn(CODES, LARGE["hidden_size"])
    files = TokenizerFiles(config, "l2", weights)
    files.save(scratch / "tokenizer")
    return model, files


def sorted_batches(waves: list[np.ndarray], batch: int) -> list[list[np.ndarray]]:
    """Batches of like length, as the job forms them."""
    ordered = sorted(waves, key=len)
    return [ordered[first : first + batch] for first in range(0, len(ordered), batch)]


def our_row(name, files, precision, device, waves, batch, compiled=False) -> Row:
    """A row of this project's tokenizer: waveforms to tokens, the codebook lookup included."""
    tokenizer = Tokenizer(files, device, precision)
    if compiled:
        tokenizer.encoder.compile()
    batches = sorted_batches(waves, batch)
    return Row(name, lambda: [tokenizer.encode_windows(part) for part in batches])


def device_rows(model, files, device, waves, batch) -> list[Row]:
    """Rows 2 to 5 on one device; 5d has a compressor between encoder and codebook."""
    compressed = distilled(files, CODES)
    model = model.to(device)
    cut = WavLMModel(WavLMConfig(**{**LARGE, "num_hidden_layers": LAYER})).eval().to(device)
    cut.load_state_dict(model.state_dict(), strict=False)
    rows = [
        Row(
            "2 Hugging Face, 24 layers, fp32",
            lambda: hugging_face(model, waves, hidden=True, batch=batch, device=device),
        ),
        Row(
            "3 Hugging Face, 6 layers, fp32",
            lambda: hugging_face(cut, waves, hidden=False, batch=batch, device=device),
        ),
        our_row("4 ours, fp32", files, precision="fp32", device=device, waves=waves, batch=batch),
        our_row("5 ours, bf16", files, precision="bf16", device=device, waves=waves, batch=batch),
        our_row(
            "5d ours, bf16, distilled",
            compressed,
            precision="bf16",
            device=device,
            waves=waves,
            batch=batch,
        ),
    ]
    if device == "cuda":
        rows.append(
            our_row(
                "5c ours, bf16, compiled",
                files,
                precision="bf16",
                device=device,
                waves=waves,
                batch=batch,
                compiled=True,
            )
        )
    return rows


def show(name: str, speed: float, against: dict[str, float], note: str = "") -> None:
    """One line of the table: seconds of audio per second, and the ratios to other rows."""
    ratios = "  ".join(f"{speed / other:5.2f} x {label}" for label, other in against.items())
    print(f"{name:<36}{speed:9.1f}  {ratios:<46}{note}", flush=True)


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__.strip(), "python jobs/bench/encode.py --utterances 8 --turns 3")
    parser.add_argument("--utterances", type=flags.positive, default=8)
    parser.add_argument("--batch", type=flags.positive, default=8, help="utterances in a batch")
    parser.add_argument("--turns", type=flags.positive, default=3, help="of each row")
    parser.add_argument("--repeats", type=flags.positive, default=4, help="of the set, per shard")
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    args = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # What Hugging Face's attention says of its own masks.
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
        model, files = make_models(scratch)
        for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            bench_device(
                device,
                model,
                files=files,
                waves=waves,
                args=args,
                scratch=scratch,
                shards_audio=shards_audio,
            )
    return 0


def bench_device(device, model, files, waves, args, scratch, shards_audio) -> None:
    """All rows on one device."""
    audio = sum(map(len, waves)) / SAMPLE_RATE
    flops = sum(len(w) * files.encoder.flops_per_second(len(w) / SAMPLE_RATE) for w in waves)
    flops /= audio * SAMPLE_RATE
    rows = device_rows(model, files, device=device, waves=waves, batch=args.batch)
    for row in rows:
        row.run()
    rates = {torch.float32: [], torch.bfloat16: []}
    for _ in range(args.turns):
        for precision, measured in rates.items():
            measured.append(gemm_rate(precision, device, turns=3))
        for row in rows:
            row.turn()
    ceilings = [statistics.median(measured) / flops for measured in rates.values()]
    print(f"-- {device}: {flops / 1e9:.2f} GFLOP a second of audio (layers 1 to {LAYER})")
    for name, ceiling in zip(("fp32", "bf16"), ceilings):
        show(
            f"1 ceiling, {name} products",
            ceiling,
            against={},
            note=f"{ceiling * flops / 1e9:.0f} GFLOP/s",
        )
    speeds = [audio / row.median for row in rows]
    full, cut, _, plain = speeds[:4]
    for row, speed in zip(rows, speeds):
        against = {"row 2": full, "row 3": cut}
        if row.name.startswith("5d"):
            against = {"row 5": plain}
        elif "ours" in row.name:
            against["ceiling"] = ceilings["bf16" in row.name]
        show(row.name, speed, against=against, note=f"+{row.peak_mb:.0f} MB peak")
    # As much audio for row 5 as for the job, by turns: a machine may slow down under a long load.
    best, turns = next(row for row in rows if row.name.startswith("5 ")), []
    for _ in range(args.turns):
        best.seconds = []
        for _ in range(round(shards_audio / audio)):
            best.turn()
        job_speed = run_job(scratch, "bf16", device)["times_real_time"]
        turns.append((job_speed, shards_audio / sum(best.seconds)))
    job, beside = (statistics.median(column) for column in zip(*turns))
    note = f"{shards_audio:.0f} s of audio; row 5 over as much, by turns: {beside:.1f}"
    show("6 the whole job, bf16, through Ray", job, against={"row 5": beside}, note=note)


if __name__ == "__main__":
    flags.run(main)
