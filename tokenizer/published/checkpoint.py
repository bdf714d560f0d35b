"""A checkpoint's folder, as FocalCodec and WavSLM have it: config.json and one file of weights.

Their hub folders hold `config.json` with `model.safetensors` or `model.pt`. Their local loader
wants one stem for both files, `model.json` with `model.safetensors`. Both are read and written. Of
a `.pt` file PyTorch's `weights_only` reader takes tensors only: no other object in it is ever
constructed.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenizer.errors import UsageError, one_line
from tokenizer.storage.encoder_files import read_pt
from tokenizer.storage.json_file import read_object

CONFIG_FILES = ("config.json", "model.json")
# Names of a checkpoint's file of weights, without its extension; else the folder's only one.
STEMS = ("model", "config")
REMEDY = "give a folder with config.json and model.safetensors or model.pt"


def read_checkpoint(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """The configuration and the weights of a local folder.

    Weights are read from `.safetensors` or, where there is none, from `.pt`, in which they may be
    under the key "model". Raises UsageError where the folder has no readable configuration or
    weights, and for a `.pt` file that holds anything but tensors.
    """
    folder = Path(folder)
    config = _read_config(folder)
    for extension, read in ((".safetensors", load_file), (".pt", read_pt)):
        file = _weights_file(folder, extension)
        if file is not None:
            return config, _read_weights(file, read)
    raise _unreadable(folder, "it has neither model.safetensors nor model.pt")


def write_checkpoint(folder: Path, config: dict, weights: dict[str, Tensor]) -> None:
    """Write config.json, the same as model.json, and model.safetensors; makes the folder.

    The hub's loader wants config.json, their local one wants the stem of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        folder / "model.safetensors",
    )
    for name in CONFIG_FILES:
        (folder / name).write_text(json.dumps(config, indent=2) + "\n")


def _read_config(folder: Path) -> dict:
    file = next((folder / name for name in CONFIG_FILES if (folder / name).is_file()), None)
    if file is None:
        raise _unreadable(folder, "it has no config.json")
    try:
        return read_object(file)
    except UsageError as error:
        error.value, error.remedy = folder, REMEDY
        raise


def _weights_file(folder: Path, extension: str) -> Path | None:
    """The folder's file of weights with this extension. Raises UsageError if that is ambiguous."""
    found = sorted(folder.glob(f"*{extension}"))
    for stem in STEMS:
        if folder / f"{stem}{extension}" in found:
            return folder / f"{stem}{extension}"
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise _unreadable(folder, f"it has several files of weights: {names}")
    return found[0] if found else None


def _read_weights(file: Path, read: Callable[[Path], Any]) -> dict[str, Tensor]:
    try:
        weights = read(file)
    except pickle.UnpicklingError as error:
        raise _unreadable(file.parent, f"its {file.name} holds more than tensors") from error
    except Exception as error:  # PyTorch's reader raises many kinds for a file that is cut
        problem = f"its {file.name} is not readable: {one_line(error)}"
        raise _unreadable(file.parent, problem) from error
    if isinstance(weights, dict) and isinstance(weights.get("model"), dict):
        weights = weights["model"]
    if not isinstance(weights, dict):
        raise _unreadable(file.parent, f"its {file.name} holds no tensors by name")
    others = [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]
    if others or not weights:
        problem = f"its {file.name} holds no tensor as {', '.join(others) or 'anything'}"
        raise _unreadable(file.parent, problem)
    return {str(name): weight for name, weight in weights.items()}


def _unreadable(folder: Path, problem: str) -> UsageError:
    return UsageError(problem, REMEDY, value=folder)
