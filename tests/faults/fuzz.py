"""Mutated inputs of every kind, in worker processes: each ends in a result or in its own error.

A worker that crashes is noticed, with the seed it was at, and so is one that takes too long or too
much memory. `python -m faults.fuzz KIND SEED` does one again, here, with its traceback.
"""

import io
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from faults import Result, mutations
from pipeline.evaluation.phone_labels import read_phones
from pipeline.shards.listing import InputFile
from pipeline.shards.report import gather
from pipeline.shards.samples import read_samples
from pipeline.tokenize.unit_lines import read_lines
from tokenizer.audio.decoding import AudioError, read_utterance
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_shards import read_tokens

EACH = 20_000
WORKERS = 2
# One input may take this long, and a worker this much memory.
MOST_SECONDS, MOST_BYTES = 30, 4 << 30
MOST_PROBLEMS = 5


class Target(NamedTuple):
    """Valid files, how to change one by its structure, what reads it, and which error it gives."""

    files: Callable[[], list[bytes]]
    by_structure: Callable[[bytes, random.Random], bytes] | None
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = ()


def _audio(data: bytes) -> object:
    return read_utterance(io.BytesIO(data), 1 << 20)


def _samples(data: bytes) -> object:
    rows = []
    for sample in read_samples(io.BytesIO(data)):
        assert (sample.audio is None) == (sample.problem is not None)
        json.dumps(sample.metadata, allow_nan=False)
        rows.append(sample.key.encode())  # fails for what no report takes
        if sample.audio is not None:
            sample.audio.close()
    return rows


def _tokens(data: bytes) -> object:
    return list(read_tokens(io.BytesIO(data), codebook_size=64))


def _report(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "reports/a.parquet")
        path.parent.mkdir()
        path.write_bytes(data)
        return gather(Folder(folder), write_manifest=True)


def _lines(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_bytes(data)
        return list(read_lines("fuzz", {"a": InputFile(str(path), len(data), "")}, 64))


def _phones(data: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_bytes(data)
        return read_phones(str(path))


TARGETS = {
    "audio": Target(mutations.audio_files, mutations.audio_by_structure, _audio, (AudioError,)),
    "tars": Target(mutations.audio_tars, mutations.tar_by_structure, _samples),
    "compressed tars": Target(mutations.packed_tars, None, _samples),
    "token shards": Target(
        mutations.token_shards, mutations.tar_by_structure, _tokens, (UsageError,)
    ),
    "reports": Target(mutations.reports, None, _report, (UsageError,)),
    "units": Target(mutations.json_lines, mutations.lines_by_structure, _lines),
    "phones": Target(mutations.json_lines, mutations.lines_by_structure, _phones, (UsageError,)),
}


def run(each: int = EACH, kinds: tuple[str, ...] = (), seed: int = 0) -> Iterator[Result]:
    """A result for each kind of input. each: mutations of all kinds together, of which a run with
    the next `seed` has others."""
    kinds = kinds or tuple(TARGETS)
    count = each // len(kinds)
    for kind in kinds:
        yield _fuzzed(kind, range(seed * count, (seed + 1) * count))


def mutated(kind: str, seed: int, files: list[bytes]) -> bytes:
    """The mutation of a seed."""
    chosen = random.Random(f"{kind} {seed}")
    data, target = chosen.choice(files), TARGETS[kind]
    if target.by_structure is not None and chosen.random() < 0.5:
        data = target.by_structure(data, chosen)
        if chosen.random() < 0.6:
            return data
    return mutations.by_bytes(data, chosen)


def _fuzzed(kind: str, seeds: range) -> Result:
    """Try seeds in workers, and begin a new one after each that crashes."""
    count = len(seeds)
    result = Result(f"mutated {kind}", times=count, samples=count)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once, and not by every worker
    step = -(-count // WORKERS)
    parts = [seeds[n * step : (n + 1) * step] for n in range(WORKERS)]
    workers = [_Worker(context, kind, part) for part in parts]
    while any(worker.process is not None for worker in workers):
        time.sleep(0.05)
        for worker in workers:
            worker.watch()
    result.rows = sum(worker.ended for worker in workers)
    problems = [problem for worker in workers for problem in worker.problems]
    result.problems += problems[:MOST_PROBLEMS]
    if len(problems) > MOST_PROBLEMS:
        result.problems.append(f"and {len(problems) - MOST_PROBLEMS} more")
    if not problems and result.rows != count:
        result.problems.append(f"{result.rows} of {count} were tried")
    return result


class _Worker:
    """A process that goes through seeds, and another one from where it crashed."""

    def __init__(self, context: Any, kind: str, seeds: range) -> None:
        self.context, self.kind, self.seeds = context, kind, seeds
        self.ended, self.problems = 0, []
        self.process: Any = None
        self._start()

    def _start(self) -> None:
        if not self.seeds:
            self.process = None
            return
        self.at = self.context.Value("q", -1)
        self.errors, far = self.context.Pipe(duplex=False)
        self.process = self.context.Process(
            target=_work, args=((self.kind, self.seeds), self.at, far), daemon=True
        )
        self.process.start()
        far.close()
        self.last, self.since = -1, time.monotonic()

    def watch(self) -> None:
        """See how far it is; note a crash, and a seed that takes too long."""
        if self.process is None:
            return
        try:
            while self.errors.poll():
                self.problems.append(self.errors.recv())
        except EOFError:
            pass
        if self.at.value != self.last:
            self.last, self.since = self.at.value, time.monotonic()
        slow = time.monotonic() - self.since > MOST_SECONDS + 30 * (self.last < 0)
        if slow:
            self.process.kill()
            self.process.join()
        if self.process.is_alive():
            return
        self.process.join()
        if self.process.exitcode == 0:
            self.ended += len(self.seeds)
            self.seeds = range(0)
        else:
            seed = max(self.at.value, self.seeds.start)
            how = f"over {MOST_SECONDS} s" if slow else f"exit status {self.process.exitcode}"
            self.problems.append(f"seed {seed}: {how}")
            self.ended += seed + 1 - self.seeds.start
            self.seeds = range(seed + 1, self.seeds.stop)
        self._start()


def _work(what: tuple[str, range], at: Any, errors: Any) -> None:
    """Read the mutation of each seed."""
    kind, seeds = what
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars, and what libmpg123 says
    files = TARGETS[kind].files()
    for seed in seeds:
        at.value = seed
        try:
            TARGETS[kind].read(mutated(kind, seed, files))
        except TARGETS[kind].errors:
            continue
        except Exception as error:  # any other is what this looks for
            errors.send(f"seed {seed}: {type(error).__name__}: {str(error)[:80]}")


def main(kind: str, seed: int) -> None:
    """Read the mutation of one seed here."""
    target = TARGETS[kind]
    try:
        print(target.read(mutated(kind, seed, target.files())))
    except target.errors as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
