"""Continue prompts with a language model, and publish the tokens and their sound.

OUTPUT/KEY.tokens.npy    the tokens that follow the prompt
OUTPUT/KEY.wav           their sound at the vocoder's rate, where the tokenizer has a vocoder
OUTPUT/KEY.joined.wav    the decoded prompt, followed by that sound
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import soundfile

from lm.generation import Generator, Sampling
from lm.prompts import Prompt
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.codec.decoder import Decoding
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.scratch import scratch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles

SOUND_ENDINGS = ("joined.wav", "wav")
TOKENS_ENDING = "tokens.npy"


@dataclass(frozen=True, kw_only=True)
class ContinuationSettings:
    """tokens: that follow each prompt. samples: continuations of each prompt.

    seed: each continuation's own seed comes from it, the prompt's key and the sample's number.
    batch_size: continuations that are generated side by side.
    """

    tokens: int
    samples: int = 1
    seed: int = 0
    batch_size: int = 8
    sampling: Sampling = field(default_factory=Sampling)


def check_tokenizer(given: TokenizerFiles, trained_on: TokenizerFiles | None) -> None:
    """Raises UsageError unless a tokenizer is the one that a model was trained on.

    A vocoder that was added later does not change a tokenizer's fingerprint.
    """
    if trained_on is None or given.fingerprint != trained_on.fingerprint:
        whose = trained_on.fingerprint[:12] if trained_on else "tokens that name no tokenizer"
        raise UsageError(
            f"it is {given.fingerprint[:12]}, and the model is of {whose}",
            "give the tokenizer/ beside the model, or what jobs/train_vocoder.py made of it",
        )


def check_output(output: Folder, prompts: Sequence[Prompt]) -> None:
    """Raises UsageError when a continuation's file would replace a prompt."""
    taken = {prompt.url.rpartition("://")[2] for prompt in prompts}
    for prompt in prompts:
        for ending in (*SOUND_ENDINGS, TOKENS_ENDING):
            if output.path(f"{prompt.key}.{ending}") in taken:
                raise UsageError(
                    f"{prompt.key}.{ending} in it is a prompt",
                    "give another folder",
                    value=output.url,
                    argument="output",
                )


def continue_prompts(
    generator: Generator,
    prompts: Sequence[Prompt],
    *,
    settings: ContinuationSettings,
    output: Folder,
    decoding: Decoding | None,
    show: Callable[[int], object] | None = None,
) -> int:
    """Write the continuations of all prompts; returns how many there are.

    With several samples a prompt's files are KEY.1.wav, KEY.2.wav and so on. A continuation does
    not depend on the other prompts. show: called with the number of tokens just generated.
    """
    rows = [(prompt, sample) for prompt in prompts for sample in range(settings.samples)]
    for start in range(0, len(rows), settings.batch_size):
        batch = rows[start : start + settings.batch_size]
        update = _times(show, len(batch)) if show else None
        continuations = generator.generate(
            [prompt.tokens for prompt, _ in batch],
            settings.tokens,
            [continuation_seed(settings.seed, prompt.key, sample) for prompt, sample in batch],
            sampling=settings.sampling,
            show=update,
        )
        for (prompt, sample), tokens in zip(batch, continuations):
            key = prompt.key if settings.samples == 1 else f"{prompt.key}.{sample + 1}"
            waves = _waves(prompt.tokens, tokens, decoding) if decoding else {}
            rate = decoding.sample_rate if decoding else SAMPLE_RATE
            write_continuation(output, key, tokens=tokens, waves=waves, sample_rate=rate)
    output.sweep()
    return len(rows)


def _times(show: Callable[[int], object], rows: int) -> Callable[[int], object]:
    """A callback for the tokens of one row, where all rows have as many."""
    return lambda tokens: show(rows * tokens)


def continuation_seed(seed: int, key: str, sample: int) -> int:
    """The seed of one continuation. key: its prompt's. sample: its number, from 0."""
    digest = hashlib.sha256(f"{seed} {sample} {key}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def write_continuation(
    output: Folder, key: str, *, tokens: np.ndarray, waves: dict[str, np.ndarray], sample_rate: int
) -> None:
    """Publish a continuation's tokens, (T,), and sounds, {ending: (n,)}, as KEY.ENDING each."""
    with scratch_folder() as scratch:
        path = scratch / "file"
        with path.open("wb") as file:
            np.save(file, tokens.astype(np.uint32 if tokens.max() > 0xFFFF else np.uint16))
        output.publish(path, f"{key}.{TOKENS_ENDING}")
    write_sounds(output, key, waves, sample_rate=sample_rate)


def write_sounds(
    output: Folder, key: str, waves: dict[str, np.ndarray], *, sample_rate: int
) -> None:
    """Publish sounds, {ending: (n,)}, as KEY.ENDING each."""
    with scratch_folder() as scratch:
        path = scratch / "file"
        for ending, wave in waves.items():
            soundfile.write(path, wave, sample_rate, format="WAV")
            output.publish(path, f"{key}.{ending}")


def _waves(prompt: np.ndarray, tokens: np.ndarray, decoding: Decoding) -> dict[str, np.ndarray]:
    """The sound of prompt and continuation together, and of the continuation alone."""
    joined = decoding.waveform(np.concatenate([prompt.astype(np.int64), tokens]))
    begin = len(prompt) * decoding.samples_per_token
    return dict(zip(SOUND_ENDINGS, (joined, joined[begin:]), strict=True))
