"""Models of transformers that take scores: a folder or a hub id, checked before it is loaded.

Which class loads it is said by "architectures" in its config.json; code that lies in a folder or on
the hub is never run.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizer.errors import UsageError, one_line
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import public_url

# What a model's tokenizer and processor lie in, beside its config.json and weights.
BESIDE = ("*.json", "*.txt", "*.model")
# Drawn at random where a checkpoint leaves it out, and only used in training.
UNUSED = "masked_spec_embed"
# A message lists no more classes than this.
MOST_NAMED = 8


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine. name: for a record: as given, and the commit of one of the hub.

    architecture: the class of transformers. config: its config.json.
    """

    path: Path
    name: str
    architecture: str
    config: dict[str, Any]

    def load(self, device: str, **options: Any) -> Any:
        """The model on a device, for inference, in fp32 unless options of transformers differ.

        Raises UsageError where weights are missing: transformers would draw them at random.
        """
        import torch
        import transformers
        from safetensors import SafetensorError

        # Its bars and its advice to programmers; weights that are missing are looked for below.
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        kind = getattr(transformers, self.architecture)
        settings = {"dtype": torch.float32, "trust_remote_code": False, **options}
        try:
            model, found = kind.from_pretrained(self.path, output_loading_info=True, **settings)
        except (
            *(OSError, ValueError, RuntimeError, KeyError, TypeError),
            SafetensorError,
        ) as error:
            raise UsageError(
                f"it does not load as a {self.architecture}: {one_line(error)}",
                "give the folder that its save_pretrained wrote",
                value=self.name,
            ) from error
        missing = sorted(name for name in found["missing_keys"] if UNUSED not in name)
        if missing:
            raise UsageError(
                f"{len(missing):,} of its weights are missing, such as {missing[0]}",
                f"give a {self.architecture} that was trained",
                value=self.name,
            )
        return model.eval().requires_grad_(False).to(device)

    def part(self, kind: Any, what: str) -> Any:
        """A processor or tokenizer that lies with the model. kind: its class. what: its name."""
        try:
            return kind.from_pretrained(self.path, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"its {what} does not load: {one_line(error)}",
                "give a folder that has the model and its processor",
                value=self.name,
            ) from error


def find_model(value: str, kind: str, architectures: Collection[str], example: str) -> ModelFolder:
    """The model that a folder, a URL or a hub id names.

    kind: what it should be, for messages. architectures: the classes that are understood. example:
    a hub id of one. Raises UsageError where there is none, and for a model of another class.
    """
    remedy = f"give {kind}: a folder, or a hub id such as {example}"
    if re.fullmatch(r"[\w.-]+", value) and not Path(value).is_dir():
        raise UsageError("there is no such folder", remedy, value=value)
    folder = fetch_folder(value, kind, hub=True, beside=BESIDE)
    try:
        config = json.loads((folder / "config.json").read_bytes())
        found = list(config.get("architectures") or [])
    except (OSError, ValueError, AttributeError, TypeError) as error:
        problem = f"its config.json cannot be read: {one_line(error)}"
        raise UsageError(problem, remedy, value=value) from error
    understood = [name for name in found if name in architectures]
    if not understood:
        is_a = (
            f"it is a {', '.join(map(str, found))}" if found else "its config.json names no class"
        )
        known = ", ".join(sorted(architectures))
        if len(architectures) > MOST_NAMED:
            known = f"{len(architectures)} classes of transformers"
        raise UsageError(f"{is_a}, and {kind} is one of {known}", remedy, value=value)
    return ModelFolder(folder, name_of(value, folder), understood[0], config=config)


def name_of(value: str, folder: Path) -> str:
    """A model's name in a record: as given, without passwords, and the commit of one of the hub."""
    commit = f"@{folder.name[:12]}" if folder.parent.name == "snapshots" else ""
    return f"{public_url(value)}{commit}"
