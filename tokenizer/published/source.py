"""What a folder, file, URL or hub id holds: the weights of a codec, a language model or k-means."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tokenizer.errors import UsageError, one_line
from tokenizer.published.checkpoint import CONFIG_FILES, read_checkpoint
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.file_stream import copy_whole
from tokenizer.storage.folder import filesystem
from tokenizer.storage.json_file import read_object
from tokenizer.storage.scratch import scratch_until_exit

FOCALCODEC, WAVSLM, KMEANS = "FocalCodec", "WavSLM", "k-means"
# Keys by which a configuration is told.
CODEC_KEYS = {
    f"{part}_name" for part in ("encoder", "compressor", "quantizer", "decompressor", "decoder")
}
LM_KEYS = {"vocab_size", "toks_per_step"}
HUB_ID = re.compile(r"[\w-]+/[\w.-]+")
WEIGHTS = (".safetensors", ".pt")
# The first bytes of the small file that git keeps in place of a large one.
LFS_POINTER = b"version https://git-lfs"
REMEDY = "give a folder or hub id of FocalCodec or WavSLM, or a file of k-means centroids"


@dataclass(frozen=True)
class Published:
    """Published weights on this machine.

    kind: FOCALCODEC, WAVSLM or KMEANS. path: a checkpoint's folder, or the file of k-means. given:
    what was asked for.
    """

    kind: str
    path: Path
    given: str

    def read(self) -> tuple[dict, dict[str, Tensor]]:
        """Configuration and weights of a checkpoint. Raises UsageError as read_checkpoint."""
        try:
            return read_checkpoint(self.path)
        except UsageError as error:
            error.value = self.given
            raise


def find_published(given: str) -> Published:
    """Fetch what a path, URL or hub id names, and find out what it is.

    A path may also be one `NAME.json` beside `NAME.safetensors`, or the folder of such a pair.
    Raises UsageError when there is nothing of that name, or it is of no kind that is known here.
    """
    try:
        return _found(given)
    except UsageError as error:
        error.value, error.remedy = given, error.remedy or REMEDY
        raise


def _found(given: str) -> Published:
    file = _fetched_file(given)
    if file and file.suffix in WEIGHTS:
        raise UsageError("its configuration is missing", "give the folder that holds both")
    if file and file.suffix != ".json":
        _check_content(file)
        return Published(KMEANS, file, given)
    if file:
        return _checkpoint(_as_folder(file), given)
    if re.fullmatch(r"[\w-]+", given) and not Path(given).exists():
        raise UsageError("there is no such folder or file")
    folder = fetch_folder(given, "published weights", hub=True)
    if not any((folder / name).is_file() for name in CONFIG_FILES):
        pairs = [p for p in folder.glob("*.json") if any(map(Path.is_file, _weights_beside(p)))]
        if len(pairs) != 1:
            raise UsageError("it has no config.json")
        folder = _as_folder(pairs[0])
    return _checkpoint(folder, given)


def _checkpoint(folder: Path, given: str) -> Published:
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", *WEIGHTS):
            _check_content(file)
    config = read_object(next(folder / n for n in CONFIG_FILES if (folder / n).is_file()))
    if config.keys() & CODEC_KEYS:
        return Published(FOCALCODEC, folder, given)
    if config.keys() & LM_KEYS and "model_type" not in config:
        return Published(WAVSLM, folder, given)
    if "format" in config:
        raise UsageError("it is in this project's layout already")
    kind = config.get("model_type")
    raise UsageError(f"its config.json is {f'of a {kind!r}' if kind else 'of an unknown kind'}")


def _check_content(file: Path) -> None:
    """Raises UsageError for a file that git-lfs has not filled, and for one that is empty."""
    with file.open("rb") as opened:
        begin = opened.read(len(LFS_POINTER))
    if begin == LFS_POINTER:
        remedy = "run `git lfs pull` in its repository"
        raise UsageError(f"{file.name} is only a pointer of git-lfs to the real file", remedy)
    if not begin:
        raise UsageError(f"{file.name} is empty")


def _fetched_file(given: str) -> Path | None:
    """A file as a local one, a .json with its weights; None where it is no file."""
    if Path(given).is_file():
        return Path(given)
    if "://" not in given:
        return None
    fs, path = filesystem(given)
    try:
        if not fs.isfile(path):
            return None
        folder = scratch_until_exit()
        for name in [path, *map(str, _weights_beside(Path(path)))]:
            if name == path or (path.endswith(".json") and fs.exists(name)):
                copy_whole(fs, name, folder / Path(name).name)
    except Exception as error:  # whatever a store raises, this file cannot be fetched
        raise UsageError(one_line(error)) from error
    return folder / Path(path).name


def _weights_beside(config: Path) -> list[Path]:
    return [config.with_suffix(ending) for ending in WEIGHTS]


def _as_folder(config: Path) -> Path:
    """A folder in the hub's layout of NAME.json and the weights beside it."""
    folder = scratch_until_exit()
    (folder / "config.json").symlink_to(config.resolve())
    for weights in filter(Path.is_file, _weights_beside(config)):
        (folder / f"model{weights.suffix}").symlink_to(weights.resolve())
    return folder
