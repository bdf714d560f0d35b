"""Folders of models and recordings as local ones: by path, URL, shipped name or hub id."""

import re
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from tokenizer.errors import UsageError, one_line
from tokenizer.storage.file_stream import copy_whole
from tokenizer.storage.folder import check_name, filesystem
from tokenizer.storage.scratch import scratch_until_exit

# Encoders and tokenizers that ship with the project, a folder each.
PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


def fetch_folder(value: str, kind: str, hub: bool = False, beside: tuple[str, ...] = ()) -> Path:
    """A local folder with the content of a folder, a URL, a shipped name or, with `hub`, a hub id.

    kind: what should be there, for the message. beside: which further files to take from the hub,
    beside a model's configuration and weights, such as *.txt. Raises UsageError when there is no
    such folder.
    """
    if re.fullmatch(r"[\w-]+", value) and not Path(value).exists():
        if (PRETRAINED / value).is_dir():
            return PRETRAINED / value
        names = ", ".join(_shipped(kind))
        remedy = f"give the folder or URL of {kind}" + (f", or {names}" if names else "")
        raise UsageError("there is no such folder", remedy, value=value)
    if not Path(value).exists() and hub and re.fullmatch(r"[\w.-]+/[\w.-]+", value):
        return _fetch_from_hub(value, beside)
    fs, path = filesystem(value)
    remedy = f"give the folder or URL of {kind}"
    try:
        found = fs.isdir(path)
        if found and not isinstance(fs, LocalFileSystem):
            local = scratch_until_exit()
            for file in filter(lambda name: name[-1] != "/", fs.find(path)):
                name = file.removeprefix(path.rstrip("/")).lstrip("/")
                check_name(name)
                target = local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_whole(fs, file, target)
            path = str(local)
    except Exception as error:  # whatever a store raises, this folder cannot be fetched
        raise UsageError(one_line(error), remedy, value=value) from error
    if not found:
        raise UsageError("there is no such folder", remedy, value=value)
    return Path(path)


def _shipped(kind: str) -> list[str]:
    """Names of what ships of this kind: tokenizers and WavLMs do."""
    folders = sorted(PRETRAINED.glob("*/"))
    tokenizers = [folder.name for folder in folders if "wavmill-tokenizer" in _config(folder)]
    if "tokenizer" in kind:
        return tokenizers
    is_encoder = kind in ("a WavLM", "an encoder")
    return [folder.name for folder in folders if is_encoder and folder.name not in tokenizers]


def _config(folder: Path) -> str:
    return (folder / "config.json").read_text(encoding="utf-8")


def _fetch_from_hub(value: str, beside: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    names = ["config.json", "preprocessor_config.json", *beside]
    try:
        folder = Path(snapshot_download(value, allow_patterns=[*names, "*.safetensors"]))
        if not list(folder.glob("*.safetensors")):
            older = ["pytorch_model.bin", "model.pt"]
            folder = Path(snapshot_download(value, allow_patterns=[*names, *older]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UsageError(
            one_line(error), "give a local folder, or a hub id this machine can reach", value=value
        ) from error
    return folder
