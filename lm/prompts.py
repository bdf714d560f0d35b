"""What a language model continues: utterances of audio files, or tokens of shards and arrays."""

import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import BinaryIO

import numpy as np

from lm.config import LMConfig, LMError
from lm.generation import Generator
from tokenizer.audio.decoding import EMPTY, NOT_AUDIO, TOO_SHORT, AudioError, read_utterance
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import filesystem
from tokenizer.tokenizer import Tokenizer

TOKENS_ENDING = ".npy"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt. key: names its continuation's files. tokens: (T,). url: where it came from."""

    key: str
    tokens: np.ndarray
    url: str


def audio_prompts(
    files: dict[str, str], tokenizer: Tokenizer, show: Callable[[int], object] | None = None
) -> list[Prompt]:
    """Audio files, tokenized. A prompt's key is its file's path without the ending.

    files: {path below their common folder: url}. show: called with the number of files just done.
    Raises UsageError when a file is not audio or has no frame of sound, or two have one key.
    """
    prompts: dict[str, Prompt] = {}
    for path, url in files.items():
        key = posixpath.splitext(path)[0]
        if key in prompts:
            raise UsageError(f"{prompts[key].url} has the same name", "rename one", value=url)
        prompts[key] = Prompt(key=key, tokens=_encode(url, tokenizer), url=url)
        if show:
            show(1)
    return list(prompts.values())


def _encode(url: str, tokenizer: Tokenizer) -> np.ndarray:
    fs, path = filesystem(url)
    try:
        with fs.open(path, "rb") as file:
            waveform = read_utterance(file, keep_samples=1 << 62).waveform
        assert waveform is not None
        return tokenizer.encode(waveform)
    except AudioError as error:
        problem = str(error)
        if error.reason == NOT_AUDIO:
            problem = "it is no audio"
        elif error.reason in (EMPTY, TOO_SHORT):
            problem = f"it is empty ({error})"
        raise UsageError(problem, "give a file of speech", value=url) from error
    except OSError as error:
        raise UsageError(one_line(error), "give a file of speech", value=url) from error


def token_prompts(files: dict[str, str], config: LMConfig, limit: int | None) -> list[Prompt]:
    """Utterances of token shards, under their keys, and of .npy arrays, under their paths.

    files: {path below their common folder: url}. limit: maximum number of prompts. Raises
    UsageError when a file holds no tokens, a shard is another tokenizer's, or two have one key.
    """
    prompts: dict[str, Prompt] = {}
    for path, url in files.items():
        for key, tokens in _tokens(path, url=url, config=config, limit=limit):
            if key in prompts:
                problem = f"{prompts[key].url} has a {key} too"
                raise UsageError(problem, "give one of them", value=url)
            prompts[key] = Prompt(key=key, tokens=tokens, url=url)
    return list(prompts.values())[:limit]


def _tokens(
    path: str, url: str, config: LMConfig, limit: int | None
) -> list[tuple[str, np.ndarray]]:
    """(key, (T,) tokens) of the first `limit` utterances of one file."""
    is_array = path.endswith(TOKENS_ENDING)
    fs, place = filesystem(url)
    try:
        if not is_array:
            _check_tokenizer(url, config)
        with fs.open(place, "rb") as file:
            if is_array:
                key = path.removesuffix(TOKENS_ENDING).removesuffix(".tokens")
                utterances = [(key, np.load(file, allow_pickle=False))]
            else:
                utterances = list(islice(_read_shard(file), limit))
        for _, tokens in utterances:
            if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
                raise ValueError(f"{tokens.dtype} of shape {tokens.shape}")
    except UsageError:
        raise
    except (OSError, EOFError, ValueError, AttributeError, tarfile.TarError) as error:
        raise UsageError(
            f"it holds no tokens ({one_line(error)})",
            "give a token shard or an array of whole numbers",
            value=url,
        ) from error
    return utterances


def _read_shard(file: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    found = False
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member)
            if member.name.endswith(".tokens.npy") and content is not None:
                found = True
                array = np.load(io.BytesIO(content.read()), allow_pickle=False)
                yield member.name.removesuffix(".tokens.npy"), array
    if not found:
        raise ValueError("it has no .tokens.npy")


def _check_tokenizer(url: str, config: LMConfig) -> None:
    """Raises UsageError when the run.json of a shard's OUTPUT names another tokenizer."""
    root, _, below = url.rpartition("/shards/")
    if not below:
        return
    fs, path = filesystem(f"{root}/run.json")
    if not fs.exists(path):
        return
    made_by = json.loads(fs.cat_file(path)).get("tokenizer")
    if made_by != config.tokenizer:
        theirs, ours = (name[:12] if name else "none" for name in (made_by, config.tokenizer))
        raise UsageError(
            f"its tokens are of tokenizer {theirs}, and the model is of {ours}",
            "give tokens of the model's own tokenizer",
            value=url,
        )


def last_seconds(prompt: Prompt, seconds: float, frames_per_token: int) -> Prompt:
    """The end of a prompt, at least one token."""
    count = max(1, round(seconds * FRAMES_PER_SECOND / frames_per_token))
    return replace(prompt, tokens=prompt.tokens[-count:])


def check_prompts(prompts: Iterable[Prompt], generator: Generator) -> None:
    """Raises UsageError for a prompt that is empty, longer than the window, or not of its codes.

    The error about a prompt that is too long has no remedy: the caller knows how to shorten one.
    """
    for prompt in prompts:
        if not len(prompt.tokens):
            raise UsageError("it has no tokens", "give one with speech in it", value=prompt.url)
        try:
            generator.check(prompt.tokens)
        except LMError as error:
            error.value = prompt.url
            if len(prompt.tokens) <= generator.config.window:
                error.remedy = "give tokens of the model's own tokenizer"
            raise
