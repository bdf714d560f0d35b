"""jobs/train_lm.py from outside: a kill leaves no trace, and two processes do as one."""

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import as_flags, json_lines, kill_when, run_here, run_job, train_here
from refusals import assert_refused
from s3fs import S3FileSystem
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event
from test_lm_data import imported

from lm.config import LMConfig
from lm.files import read_lm
from lm.training.data import TokenShards
from lm.training.settings import LMTrainingSettings
from lm.training.trainer import LMRun, train_in_process
from tokenizer.errors import TrainingFailed
from tokenizer.storage.folder import Folder
from tokenizer.training.settings import RuntimeSettings

SHAPE = {"width": 32, "layers": 2, "heads": 2, "feed-forward": 64}
SMALL = {
    **SHAPE,
    "steps": 200,
    "rows": 6,
    "row-tokens": 32,
    "window": 16,
    "learning-rate": 0.01,
    "validate-every": 100,
    "log-every": 20,
    "checkpoint-minutes": 0.0001,
    "precision": "fp32",
}
CODES = 16


def flags(tokens, output, **changes) -> list:
    """The job's flags; `changes` replaces some."""
    return as_flags({"input": tokens, "output": output, **SMALL, **changes})


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> str:
    """300 utterances in which each token is the one before and a step of the utterance's own."""
    random = np.random.default_rng(0)
    utterances = []
    for _ in range(300):
        start, step, length = random.integers(CODES), random.integers(1, 3), random.integers(5, 60)
        utterances.append(((start + step * np.arange(length)) % CODES).tolist())
    return imported(tmp_path_factory.mktemp("tokens"), utterances, codes=CODES, shard_tokens=2000)


def log(output) -> list[dict]:
    """The lines of the training's log, without what a clock says."""
    clock = ("time", "hours", "tokens_per_second", "flops_utilisation")
    lines = json_lines(Path(output) / "training/log.jsonl")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def trained(
    tokens, output, start=None, show=lambda *_: None, shape=None, log_every=10, **changes
) -> list[dict]:
    """As the job does in its one process, but in this one. Returns the log.

    shape: what is other in the configuration of the model. changes: in the settings.
    """
    settings = LMTrainingSettings(
        **{
            "steps": 30,
            "rows": 6,
            "row_tokens": 32,
            "accumulate": 1,
            "workers": 1,
            "learning_rate": 0.01,
            "warm_up": 0.03,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
            "noise": 0.0,
            "optimizer": "adamw",
            "precision": "fp32",
            "validate_every": 0,
            "keep_best": False,
            "seed": 0,
            **changes,
        }
    )
    small = {name.replace("-", "_"): value for name, value in SHAPE.items()}
    small |= {"window": 16, "inputs": "embedding", **(shape or {})}
    config = LMConfig(codebook_size=CODES, **small)
    train, valid = TokenShards.open(tokens, 0.1)
    run = LMRun(
        config=config,
        settings=settings,
        train=train,
        valid=valid,
        tokenizer=None,
        encoder=None,
        start=start,
        output=Folder(str(output)),
        show=show,
        runtime=RuntimeSettings(device="cpu", checkpoint_minutes=1e-9, keep=3, log_every=log_every),
        compile=False,
        threads=1,
    )
    train_in_process({"run": run})
    return log(output)


@pytest.mark.slow
def test_killed_in_training_and_run_again(tokens, tmp_path):
    """It ends with the bits of a training in this process that nothing disturbs."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    # What a step draws, dropout and noise, must not depend on the kill either.
    more = {"dropout": 0.1, "noise": 0.1, "held-out": 0.1}
    same = {"steps": 200, "noise": 0.1, "validate_every": 100, "log_every": 20}
    lines = trained(tokens, undisturbed, shape={"dropout": 0.1}, **same)
    assert [line["step"] for line in lines] == [*range(20, 201, 20)]
    assert [line["step"] for line in lines if "valid_bits_per_token" in line] == [100, 200]
    # Once a chunk is seen, the next one is certain; all that is known of the first is 16 codes.
    assert lines[-1]["valid_bits_per_token"] < 0.6 * lines[0]["bits_per_token"]

    kill_when(lambda: bool(log(killed)), "train_lm", *flags(tokens, killed, **more))
    before = log(killed)
    assert len(before) < len(lines) and not (killed / "model/config.json").exists()
    done = run_job("train_lm", *flags(tokens, killed, **more))
    assert done.returncode == 0, done.stderr
    assert log(killed) == lines
    weights = [load_file(folder / "model/model.safetensors") for folder in (undisturbed, killed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())

    kept = sorted((killed / "training/checkpoints").glob("*.safetensors"))
    assert [path.stem for path in kept] == ["step-160", "step-180", "step-200"]
    assert events(killed / "training") == {
        (line["step"], name) for line in lines for name in line if name != "step"
    } | {
        (line["step"], name)
        for line in lines
        for name in ("hours", "tokens_per_second", "flops_utilisation")
    }
    # Nothing is left to do; other settings are refused.
    again = run_job("train_lm", *flags(tokens, killed, **more))
    assert again.returncode == 0 and "200 steps" in again.stdout
    other = run_here("train_lm", *flags(tokens, killed, **{**more, "rows": 3}))
    assert_refused(other, "--output", "settings")


def events(folder: Path) -> set[tuple[int, str]]:
    """(step, name) of all scalars in TensorBoard's file: records of a length, data and checks."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), set()
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + size])
        found |= {(event.step, value.tag) for value in event.summary.value}
        data = data[16 + size :]
    return found


@pytest.mark.slow
def test_two_processes_do_as_one_that_accumulates(tokens, tmp_path):
    plain = trained(tokens, tmp_path / "plain")
    accumulated = trained(tokens, tmp_path / "accumulated", accumulate=2)
    changes = {"workers": 2, "steps": 30, "log-every": 10, "validate-every": 0, "held-out": 0.1}
    done = run_job("train_lm", *flags(tokens, tmp_path / "two", **changes))
    assert done.returncode == 0, done.stderr
    two = log(tmp_path / "two")
    assert plain[-1]["bits_per_token"] < 0.9 * plain[0]["bits_per_token"]
    for lines in (accumulated, two):
        for line, expected in zip(lines, plain, strict=True):
            assert line["tokens"] == expected["tokens"]
            for name in ("bits_per_token", "gradient_norm"):
                assert math.isclose(line[name], expected[name], rel_tol=1e-3)
    valid = [lines[-1]["valid_bits_per_token"] for lines in (plain, accumulated, two)]
    assert max(valid) - min(valid) < 2e-3


def test_muon_and_the_best_validation(tokens, tmp_path):
    lines = trained(
        tokens, tmp_path, optimizer="muon", keep_best=True, validate_every=5, learning_rate=0.02
    )
    about = json.loads((tmp_path / "model/config.json").read_text())["made_by"]
    best = min(lines, key=lambda line: line["valid_bits_per_token"])
    assert about["step"] == best["step"] and len(lines) == 6
    assert lines[-1]["best_bits_per_token"] == best["valid_bits_per_token"]
    model, tokenizer = read_lm(tmp_path / "model")
    assert tokenizer is None and model.config.codebook_size == CODES


def test_going_on_from_a_model_without_start_and_after_a_stop(tokens, tmp_path):
    plain = {"shape": {"start": False}}
    first = trained(tokens, tmp_path / "first", **plain)
    start = {"start": tmp_path / "first/model", "learning_rate": 1e-3, **plain}
    whole = trained(tokens, tmp_path / "whole", **start)
    # It begins where the other ended, not where that one began.
    assert whole[0]["bits_per_token"] < 0.6 * first[0]["bits_per_token"]
    assert whole[-1]["valid_bits_per_token"] < first[-1]["valid_bits_per_token"]
    model, _ = read_lm(tmp_path / "whole/model")
    assert not model.config.start and "inputs.start" not in model.state_dict()

    def stop(name: str, step: int, *_):
        if (name, step) == ("train", 17):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tokens, tmp_path / "stopped", show=stop, **start)
    assert trained(tokens, tmp_path / "stopped", **start) == whole
    weights = [
        load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "stopped")
    ]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_a_loss_that_is_no_number_ends_the_training(tokens, tmp_path):
    with pytest.raises(TrainingFailed, match="give a lower learning rate and another output"):
        trained(tokens, tmp_path, learning_rate=1e30)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_from_wavlm_on_a_store(s3, good, tokenizer, encoder):
    source = s3.upload(good.output, "train-lm/tokens")
    output = "s3://speech/train-lm/out"
    changes = {**SHAPE, "width": 128, "layers": 1, "feed-forward": 256}
    more = {"tokenizer": tokenizer, "encoder": encoder, "steps": 20, "held-out": 0.2}
    S3FileSystem.clear_instance_cache()  # of one with the credentials of an earlier test
    done = train_here("train_lm", *flags(source, output, **changes, **more), env=s3.env)
    assert done.returncode == 0, done.stderr
    found = s3.listing("train-lm/out")
    names = {name.removeprefix("train-lm/out/") for name in found}
    assert {"model/config.json", "model/tokenizer/config.json", "training/log.jsonl"} <= names
    about = json.loads(s3.read("train-lm/out/model/config.json"))
    run = json.loads((good.output / "run.json").read_text())
    assert about["model"]["tokenizer"] == run["tokenizer"]
    assert json.loads(s3.read("train-lm/out/training/run.json"))["start"] == str(encoder)


UNUSABLE = {
    "no-output": ({"input": "{t}/nothing"}, "--input", "run.json"),
    "another-tokenizer": ({"tokenizer": "wavlm-tiny-km256"}, "--input", "no tokenizer"),
    "rows": ({"rows": 5, "accumulate": 2}, "--preset", "5 rows"),
    "wavlm-without-one": ({"initialize": "wavlm"}, "--initialize", "--encoder"),
    "earlier-name-of-a-flag": ({"start": "wavlm", "noise": 0.1}, "--initialize", "--encoder"),
    "inputs-without-tokenizer": ({"inputs": "codes"}, "--inputs", "codes"),
    "heads": ({"heads": 3}, "--preset", "heads"),
    "no-model-to-start-from": ({"start": "{t}"}, "--start", "leave out --width"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_arguments_are_refused(case, tokens, tmp_path):
    changes, *said = UNUSABLE[case]
    changes = {k: v.format(t=tmp_path) if isinstance(v, str) else v for k, v in changes.items()}
    assert_refused(run_here("train_lm", *flags(tokens, tmp_path / "out", **changes)), *said)
    assert not (tmp_path / "out").exists()
