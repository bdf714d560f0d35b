"""The table of jobs/bench/gpu.py: rows with a verdict, sections that may fail, and the clock."""

import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tokenizer.tokenizer import PRECISIONS

VERDICTS = {None: "", True: "ok", False: "FAIL"}
# FLOP/s of dense bf16 products that the makers state, by a part of the device's name.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


@dataclass(kw_only=True)
class GPUTable:
    """Prints rows as they come. minutes: after which no section begins."""

    device: str
    small: bool
    minutes: float
    began: float = field(default_factory=time.monotonic)
    failed: list[str] = field(default_factory=list)

    def row(self, name: str, value: str, good: bool | None = None, note: str = "") -> None:
        """One line. good: None where nothing is promised."""
        if good is False:
            self.failed.append(name)
        print(f"{VERDICTS[good]:<5}{name:<56}{value:>20}  {note}".rstrip(), flush=True)

    def share(self, name: str, share: float, least: float) -> None:
        """A row that fails under `least`."""
        self.row(name, f"{share:.4%}", share >= least)

    def run_all(self, sections: list[Callable[[], None]]) -> int:
        """Run the sections. Returns the exit status."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        print(f"{name}, PyTorch {torch.__version__}")
        for section in sections:
            started = time.monotonic()
            if started - self.began > 60 * self.minutes:
                self.row(section.__name__, "no time left", False)
                continue
            print(f"-- {section.__name__}: {section.__doc__}")
            try:
                section()
            except Exception as error:
                traceback.print_exc()
                lines = str(error).splitlines() or [""]
                self.row(section.__name__, type(error).__name__, False, note=lines[0][:120])
            if self.device == "cuda":
                torch.cuda.empty_cache()
            print(f"   {time.monotonic() - started:.0f} s", flush=True)
        print(f"failed: {', '.join(self.failed) or 'nothing'}")
        return 1 if self.failed else 0

    def seconds(self, call: Callable[[], object], turns: int = 3, warm: int = 1) -> float:
        """Of the median turn, after `warm` that do not count: they compile."""
        for _ in range(warm):
            call()
        took = []
        for _ in range(turns):
            self.wait()
            started = time.perf_counter()
            call()
            self.wait()
            took.append(time.perf_counter() - started)
        return statistics.median(took)

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def ceiling(self, precision: str) -> float:
        """FLOP/s of a large matrix product, as a row; of bf16 beside what the maker states."""
        size = 8192 if self.device == "cuda" else 256
        a, b = (
            torch.randn(size, size, device=self.device).to(PRECISIONS[precision]) for _ in range(2)
        )
        rate = 2 * size**3 / self.seconds(lambda: a @ b, 10, warm=3)
        note = ""
        if precision == "bf16" and (peak := self.stated_peak()):
            note = f"{rate / peak:.2f} of the {peak / 1e12:.0f} that the maker states"
        self.row(f"matrix products, {precision}", f"{rate / 1e12:.2f} TFLOP/s", None, note=note)
        return rate

    def stated_peak(self) -> float | None:
        """FLOP/s in bf16 that the device's maker states; None of a device that is not listed."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else ""
        return next((peak for part, peak in PEAKS.items() if part in name), None)

    def reset_peak(self) -> None:
        """Forget how much memory was in use."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> str:
        """The most memory that was in use."""
        if self.device != "cuda":
            return ""
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
