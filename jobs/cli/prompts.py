"""What jobs/generate.py continues: audio files, or tokens from shards and arrays."""

import posixpath
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tqdm import tqdm

from jobs.cli import flags
from lm.config import LMConfig
from pipeline.shards.inputs import SHARD_ENDINGS, find_files
from pipeline.shards.samples import AUDIO_ENDINGS
from tokenizer.audio.decoding import EMPTY, NOT_AUDIO, TOO_SHORT, AudioError, read_utterance
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import filesystem
from tokenizer.storage.token_shards import check_array, check_shard_tokenizer, read_tokens
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer


@dataclass
class Prompt:
    """key: of what is written. tokens: (T,). flag, url: where it came from, for messages."""

    key: str
    tokens: np.ndarray
    flag: str
    url: str


def audio_prompts(
    values: list[str], files: TokenizerFiles | None, lm: str, device: str, limit: int | None
) -> list[Prompt]:
    """The audio files of --prompt, tokenized; a key is the path below their common folder.

    files, lm: the model's tokenizer, and where that came from. Raises UsageError when there is no
    tokenizer, a file is no audio or has no frame of sound, or two would have one key.
    """
    flag = "--prompt"
    if files is None:
        raise flags.unusable(
            "--lm",
            lm,
            "it has no tokenizer for audio: it learned from imported tokens",
            "give tokens, with --prompt-tokens",
        )
    _, found = flags.named(
        flag, find_files, values, tuple(f".{ending}" for ending in AUDIO_ENDINGS)
    )
    found = dict(islice(found.items(), limit))
    tokenizer, prompts = Tokenizer(files, device), {}
    for path, (url, _) in tqdm(found.items(), "prompts", unit=" files", leave=False, disable=None):
        key = posixpath.splitext(path)[0]
        if key in prompts:
            raise flags.unusable(flag, url, f"{prompts[key].url} has the same name", "rename one")
        prompts[key] = Prompt(key, _tokens_of(url, tokenizer), flag=flag, url=url)
    return list(prompts.values())


def _tokens_of(url: str, tokenizer: Tokenizer) -> np.ndarray:
    fs, path = flags.named("--prompt", filesystem, url)
    try:
        with fs.open(path, "rb") as file:
            utterance = read_utterance(file, keep_samples=1 << 62)
        return tokenizer.encode(utterance.waveform)
    except AudioError as error:
        problem = str(error)
        if error.reason == NOT_AUDIO:
            problem = "it is no audio"
        elif error.reason in (EMPTY, TOO_SHORT):
            problem = f"it is empty ({error})"
        raise flags.unusable("--prompt", url, problem, "give a file of speech") from error
    except OSError as error:
        raise flags.unusable("--prompt", url, one_line(error), "give a file of speech") from error


def token_prompts(values: list[str], config: LMConfig, limit: int | None) -> list[Prompt]:
    """The utterances of --prompt-tokens: of token shards by their keys, of .npy by their paths.

    Raises UsageError when a file is neither, a shard is another tokenizer's, or two would have one
    key.
    """
    flag, prompts = "--prompt-tokens", {}
    remedy = "give a token shard or an array of whole numbers"
    _, found = flags.named(flag, find_files, values, (*SHARD_ENDINGS, ".npy"))
    for path, (url, _) in found.items():
        fs, place = flags.named(flag, filesystem, url)
        try:
            with fs.open(place, "rb") as file:
                if path.endswith(".npy"):
                    key = path.removesuffix(".npy").removesuffix(".tokens")
                    own = {key: np.load(file, allow_pickle=False)}
                else:
                    check_shard_tokenizer(url, config.tokenizer, "the model's")
                    some = islice(read_tokens(file, with_json=False), limit)
                    own = {key: tokens for key, tokens, _ in some}
            for key, tokens in own.items():
                check_array(tokens, None, name=key)
        except UsageError as error:
            error.argument, error.value = flag, url
            error.remedy = error.remedy or remedy
            raise
        except (OSError, EOFError, ValueError) as error:
            problem = f"it holds no tokens ({one_line(error)})"
            raise flags.unusable(flag, url, problem, remedy) from error
        for key, tokens in own.items():
            if key in prompts:
                other = f"{prompts[key].url} has a {key} too"
                raise flags.unusable(flag, url, other, "give one of them")
            prompts[key] = Prompt(key, tokens, flag=flag, url=url)
    return list(prompts.values())[:limit]


def last_seconds(tokens: np.ndarray, seconds: float, frames_per_token: int) -> np.ndarray:
    """The end of a prompt, at least a token of it."""
    return tokens[-max(1, round(seconds * FRAMES_PER_SECOND / frames_per_token)) :]
