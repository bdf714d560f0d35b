"""Checkpoints' folders: both layouts of files, and what is refused."""

import json
import re

import pytest
import torch
from models import Bomb
from safetensors.torch import save_file

from tokenizer.errors import UsageError
from tokenizer.published.checkpoint import read_checkpoint, write_checkpoint

CONFIG = {"encoder_name": "WavLM"}
WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def assert_checkpoint(folder):
    config, weights = read_checkpoint(folder)
    assert config == CONFIG and weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    write_checkpoint(tmp_path / "out", CONFIG, WEIGHTS)
    assert_checkpoint(tmp_path / "out")
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["config.json", "model.json", "model.safetensors"]
    assert json.loads((tmp_path / "out" / "model.json").read_text()) == CONFIG


@pytest.mark.parametrize("name", ["model.pt", "checkpoint.pt"])
@pytest.mark.parametrize("inside", [WEIGHTS, {"model": WEIGHTS, "step": 3}], ids=["flat", "model"])
def test_pt_files_are_read(tmp_path, name, inside):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(inside, tmp_path / name)
    assert_checkpoint(tmp_path)


def test_safetensors_come_before_pt_and_names_before_others(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(CONFIG))
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    save_file({"other": torch.ones(1)}, tmp_path / "adapter.safetensors")
    torch.save({"other": torch.ones(1)}, tmp_path / "model.pt")
    assert_checkpoint(tmp_path)


def truncated(file):
    file.write_bytes(file.read_bytes()[:-40])


BROKEN = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), "no readable config.json"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
    "no weights": (lambda folder: (folder / "model.pt").unlink(), "neither model.safetensors nor"),
    "cut pt": (lambda folder: truncated(folder / "model.pt"), "model.pt is not readable"),
    "cut safetensors": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}"),
        "model.safetensors is not readable",
    ),
    "numbers": (
        lambda folder: torch.save({"a": torch.ones(1), "step": 3}, folder / "model.pt"),
        "holds no tensor as step",
    ),
    "a list of tensors": (
        lambda folder: torch.save([torch.ones(1)], folder / "model.pt"),
        "no tensors by name",
    ),
    "several": (
        lambda folder: [
            (folder / "model.pt").rename(folder / "a.pt"),
            torch.save(WEIGHTS, folder / "b.pt"),
        ],
        "several files of weights: a.pt, b.pt",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_unreadable_folders_are_refused(tmp_path, case):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(WEIGHTS, tmp_path / "model.pt")
    break_it, message = BROKEN[case]
    break_it(tmp_path)
    with pytest.raises(UsageError, match=re.escape(message)) as refusal:
        read_checkpoint(tmp_path)
    assert str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_pickle_is_not_loaded(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(WEIGHTS | {"bomb": Bomb(tmp_path / "left behind")}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"model\.pt holds more than tensors"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "left behind").exists()
