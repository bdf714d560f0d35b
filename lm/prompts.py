"""What a language model continues: utterances of audio files, or tokens of shards and arrays."""

import io
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from lm.config import LMConfig, LMError
from lm.generation import Generator
from tokenizer.audio.decoding import read_utterance
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.audio.reasons import EMPTY, NOT_AUDIO, TOO_SHORT, AudioError
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.file_stream import FileStream, read_whole
from tokenizer.storage.folder import filesystem
from tokenizer.storage.token_folder import as_reported, check_shard_tokenizer, find_report
from tokenizer.storage.token_shards import TokenUtterance, parse_tokens, read_tokens
from tokenizer.tokenizer import Tokenizer

TOKENS_ENDING = ".npy"
TOKENS_REMEDY = "give a token shard or an array of whole numbers"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt. key: names its continuation's files. tokens: (T,). url: where it came from."""

    key: str
    tokens: np.ndarray
    url: str


def audio_prompts(
    files: dict[str, str], tokenizer: Tokenizer, show: Callable[[int], object] | None = None
) -> Iterator[Prompt]:
    """Audio files, tokenized one by one. A prompt's key is its file's path without the ending.

    files: {path below their common folder: url}. show: called with the number of files just done.
    Raises UsageError when a file is not audio or has no frame of sound, or two have one key.
    """
    urls: dict[str, str] = {}
    for path, url in files.items():
        key = posixpath.splitext(path)[0]
        if key in urls:
            raise UsageError(f"{urls[key]} has the same name", "rename one", value=url)
        urls[key] = url
        yield Prompt(key=key, tokens=_encode(url, tokenizer), url=url)
        if show:
            show(1)


def _encode(url: str, tokenizer: Tokenizer) -> np.ndarray:
    fs, path = filesystem(url)
    try:
        file = io.BytesIO(read_whole(fs, path))
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


def token_prompts(
    files: dict[str, str], config: LMConfig, limit: int | None = None
) -> Iterator[Prompt]:
    """Utterances of token shards, under their keys, and of .npy arrays, under their paths.

    files: {path below their common folder: url}. limit: maximum number of prompts. Raises
    UsageError when a file holds no tokens, a shard is another tokenizer's, or two have one key.
    """
    urls: dict[str, str] = {}
    found = (
        Prompt(key=key, tokens=tokens, url=url)
        for path, url in files.items()
        for key, tokens in _tokens(path, url=url, config=config)
    )
    for prompt in islice(found, limit):
        if prompt.key in urls:
            problem = f"{urls[prompt.key]} has a {prompt.key} too"
            raise UsageError(problem, "give one of them", value=prompt.url)
        urls[prompt.key] = prompt.url
        yield prompt


def _tokens(path: str, url: str, config: LMConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(key, (T,) tokens) of each utterance of one file."""
    fs, place = filesystem(url)
    try:
        with FileStream(fs, place) as file:
            if path.endswith(TOKENS_ENDING):
                key = path.removesuffix(TOKENS_ENDING).removesuffix(".tokens")
                yield key, parse_tokens(key, file.read())
                return
            check_shard_tokenizer(url, config.tokenizer, "the model's")
            utterances: Iterable[TokenUtterance] = read_tokens(file, with_json=False)
            if reported := find_report(url):
                utterances = as_reported(utterances, *reported)
            for each in utterances:
                yield each.key, each.tokens
    except UsageError as error:
        error.value, error.remedy = url, error.remedy or TOKENS_REMEDY
        raise
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(
            f"it holds no tokens ({one_line(error)})", TOKENS_REMEDY, value=url
        ) from error


def tokens_in(seconds: float, frames_per_token: int) -> int:
    """Tokens of so many seconds, at least one."""
    return max(1, round(seconds * FRAMES_PER_SECOND / frames_per_token))


def last_seconds(prompt: Prompt, seconds: float, frames_per_token: int) -> Prompt:
    """The end of a prompt, at least one token."""
    return replace(prompt, tokens=prompt.tokens[-tokens_in(seconds, frames_per_token) :])


def check_prompts(prompts: Iterable[Prompt], generator: Generator) -> None:
    """Raises UsageError for a prompt that is empty, as Generator.check, and says which it is."""
    for prompt in prompts:
        if not len(prompt.tokens):
            raise UsageError("it has no tokens", "give one with speech in it", value=prompt.url)
        try:
            generator.check(prompt.tokens)
        except LMError as error:
            error.value = prompt.url
            raise
