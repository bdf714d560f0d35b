"""Training jobs killed at random moments, with their Ray: they end with the bits of an undisturbed
training.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from conftest import SPEECH, as_flags
from small_lm import small_config, write_tokens

from faults import Result
from faults.checks import World
from faults.runs import Command, Ended, command
from lm.files import save_lm
from lm.model import SpeechLM

CODES = 16
MOST_RUNS = 8
ALL = "all of it"
# Signals to the job and its group, as of a terminal, and the exit statuses that they give.
STOPS = {"Ctrl-C": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143)}
# Processes whose loss ends a training with one line, and what is in their titles.
VICTIMS = {"its worker": "ray::RayTrainWorker", "its controller": "ray::TrainController"}
CHECKPOINTS = {"checkpoint-minutes": 0.0001, "rows": 2}
SPEECH_ROWS = {**CHECKPOINTS, "input": SPEECH, "row-seconds": 1}
LM_SHAPE = {"width": 32, "layers": 2, "heads": 2, "feed-forward": 64, "window": 16}
# {job: (its flags, its log below OUTPUT, the weights that must be the same)}. Together they are all
# trainings that docs/training.md promises to end with the same bits.
JOBS = {
    "train_lm": (
        {
            **CHECKPOINTS,
            **LM_SHAPE,
            "row-tokens": 32,
            "steps": 400,
            "dropout": 0.1,
            "noise": 0.1,
            "held-out": 0.1,
            "precision": "fp32",
            "log-every": 20,
        },
        "training/log.jsonl",
        "model/model.safetensors",
    ),
    "train_vocoder": (
        {
            **SPEECH_ROWS,
            "tokenizer": "wavlm-tiny-km256",
            "hidden": 48,
            "layers": 2,
            "steps": 150,
        },
        "training/log.jsonl",
        "vocoder.safetensors",
    ),
    "train_tokenizer": (
        {
            **SPEECH_ROWS,
            "encoder": "wavlm-tiny",
            "layer": 4,
            "method": "distill",
            "codebook-size": 32,
            "hidden": 48,
            "latent": 8,
            "warm-up-steps": 50,
            "steps": 150,
        },
        "training/warm-up/log.jsonl",
        "model.safetensors",
    ),
    "train_encoder": (
        {
            **SPEECH_ROWS,
            "spectrum-steps": 20,
            "steps": [60, 40],
            "codes": [20, 30],
            "label-layers": 1,
            "layers": 2,
            "width": 64,
            "conv-widths": [16, 24, 32, 32, 32, 32, 32],
        },
        "round1/log.jsonl",
        "encoder/model.safetensors",
    ),
    "align_lm": (
        {
            "checkpoint-minutes": 0.0001,
            "rows": 4,
            "steps": 150,
            "learning-rate": 1e-3,
            "log-every": 5,
            "prompt-tokens": 5,
            "continuation-tokens": 20,
            "most-triples": 100,
        },
        "training/log.jsonl",
        "model/model.safetensors",
    ),
}


def run(
    world: World,
    jobs: tuple[str, ...] = tuple(JOBS),
    kills: int = 3,
    *,
    victims: tuple[str, ...] = tuple(VICTIMS),
    seed: int = 0,
) -> Iterator[Result]:
    """A result for each job. kills: of one training.

    victims: processes of train_lm's Ray, which is also stopped by signals if there are any.
    """
    tokens, model = world.folder / "training-tokens", world.folder / "training-lm"
    write_tokens(tokens, _utterances(), CODES)
    torch.manual_seed(0)
    save_lm(model, SpeechLM(small_config(CODES, inputs="embedding")), None, {})
    inputs: dict[str, dict] = {
        "train_lm": {"input": tokens},
        "align_lm": {"lm": model, "make-triples": tokens},
    }
    for job in jobs:
        training = Training(job, world.folder, inputs.get(job, {}))
        yield _killed(training, ALL, kills, seed=seed)
        if job == "train_lm":
            for victim in victims:
                yield _killed(training, victim, kills, seed=seed)
            for stop in STOPS if victims else ():
                yield _stopped(training, stop, seed=seed)


class Training:
    """The flags of a training, and what it makes when nothing disturbs it.

    seconds: from its first line in the log to its end. lines: of the log.
    """

    def __init__(self, job: str, folder: Path, inputs: dict) -> None:
        flags, self.log, self.weights = JOBS[job]
        self.job, self.folder, self.flags = job, folder, {**inputs, **flags}
        self.output = folder / f"{job}-undisturbed"
        with command(job, *self.line(self.output)) as undisturbed:
            began = _wait_for(undisturbed, self.output / self.log)
            self.run = undisturbed.end()
        self.seconds = max(time.monotonic() - began, 1.0)
        self.lines = _lines(self.output / self.log)

    def line(self, output: Path) -> list:
        """The command line."""
        return as_flags({**self.flags, "output": output})


def _utterances() -> list[np.ndarray]:
    """Utterances in which each token is the one before and a step of the utterance's own."""
    drawn = np.random.default_rng(0)
    utterances = []
    for _ in range(300):
        first, step, length = drawn.integers(CODES), drawn.integers(1, 3), drawn.integers(5, 60)
        utterances.append(((first + step * np.arange(length)) % CODES).astype(np.uint16))
    return utterances


def _killed(training: Training, victim: str, kills: int, *, seed: int) -> Result:
    output = training.folder / f"{training.job}-killed-{victim.replace(' ', '-')}"
    chosen = random.Random(f"{training.job} {seed}")
    killed, runs = 0, [training.run]
    while len(runs) < MOST_RUNS and not (len(runs) > 1 and runs[-1].status == 0):
        with command(training.job, *training.line(output)) as job:
            dies = False
            if killed < kills:
                _wait_for(job, output / training.log)
                # What is left of the training gets shorter with every kill.
                longest = training.seconds / (killed + 2)
                _wait(job, training, output=output, seconds=chosen.uniform(0, longest))
                dies = job.process.poll() is None and _kill(job, victim)
            killed += dies
            runs.append(job.end(killed=dies and victim == ALL, tidy=not dies))
    result = Result(
        f"{training.job}: kill -9 of {victim}, {killed} times (seed {seed})", times=len(runs) - 1
    )
    if not killed:
        result.problems.append("it was never killed")
    weights = [folder / training.weights for folder in (training.output, output)]
    return _compared(result, weights, runs)


def _stopped(training: Training, stop: str, *, seed: int) -> Result:
    """Stop a training in its midst, and let it go on."""
    output = training.folder / f"{training.job}-{stop}"
    number, status = STOPS[stop]
    line, result = training.line(output), Result(f"{training.job}: {stop} (seed {seed})", times=2)
    chosen, latest, ended = random.Random(f"{stop} {seed}"), training.seconds / 2, True
    while ended and latest > training.seconds / 64:
        shutil.rmtree(output, ignore_errors=True)
        with command(training.job, *line) as job:
            _wait_for(job, output / training.log)
            _wait(job, training, output=output, seconds=chosen.uniform(0, latest))
            # Between its last line and its exit a job may be done before the signal comes.
            ended = _lines(output / training.log) >= training.lines - 1
            os.killpg(job.process.pid, number)
            first = job.end()
        latest /= 2
    if first.status != status or "interrupted; run the same command again" not in first.errors:
        result.problems.append(f"it ended with {first.status}: {first.errors.strip()[-100:]}")
    with command(training.job, *line) as job:
        runs = [training.run, job.end()]
    result.problems += [f"left over: {name}" for name in first.left]
    weights = [folder / training.weights for folder in (training.output, output)]
    return _compared(result, weights, runs)


def _compared(result: Result, weights: list[Path], runs: list[Ended]) -> Result:
    result.problems += [problem for run in runs for problem in run.problems()]
    files = [path.read_bytes() if path.exists() else b"" for path in weights]
    result.equal = bool(files[0]) and files[0] == files[1]
    if not result.equal:
        result.problems.append("the weights are not those of an undisturbed training")
    partial = list(weights[1].parent.rglob(".partial/*"))
    result.problems += [f"left over: {path}" for path in partial]
    return result


def _wait_for(job: Command, path: Path) -> float:
    """Wait until a training writes its log, or ends; returns when that was."""
    while job.process.poll() is None and not (path.exists() and path.stat().st_size):
        time.sleep(0.02)
    return time.monotonic()


def _wait(job: Command, training: Training, *, output: Path, seconds: float) -> None:
    """Wait, but not until the end of a training that is faster than the undisturbed one was."""
    deadline = time.monotonic() + seconds
    while job.process.poll() is None and time.monotonic() < deadline:
        if _lines(output / training.log) >= training.lines - 1:
            break
        time.sleep(0.02)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _kill(job: Command, victim: str) -> bool:
    """Kill the driver and every process of its Ray, or those with a title. Whether any was there.

    Those with a title are waited for, as after a kill the log is there before they are.
    """
    while job.process.poll() is None:
        found = job.processes(VICTIMS[victim]) if victim != ALL else job.processes()
        if victim != ALL and not found:
            time.sleep(0.05)
            continue
        for process in (*([job.process.pid] if victim == ALL else []), *found):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return True
    return False
