"""Continuations to be scored: of each utterance its beginning, what really follows, and what a
language model makes follow.

An utterance's first seconds are the prompt. What follows is the real continuation, up to a longest.
The model's continuations are cut to the length of the real one, as in GSLM's evaluation (Lakhotia
et al. 2021, arXiv 2102.01192), since shares of repeats, BLEU and perplexity depend on length.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lm.continuation import (
    SOUND_ENDINGS,
    ContinuationSettings,
    continuation_seed,
    write_continuation,
    write_sounds,
)
from lm.generation import Generator
from lm.prompts import Prompt
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.codec.decoder import Decoding
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """prompt: tokens of each prompt. shortest, longest: tokens of a real continuation; an utterance
    with fewer is left out, and what is over is cut off.
    """

    prompt: int
    shortest: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The two parts of an utterance: prompt (P,) and the real continuation (L,)."""

    key: str
    prompt: np.ndarray
    real: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Continued:
    """An utterance with a model's continuations. drawn: (L,) int64 each, as long as the real."""

    opening: Opening
    drawn: list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ContinuedSound:
    """The same as sound, (n,) float32 at `sample_rate`, all through one vocoder.

    joined: the prompt and each drawn continuation. begin: the sample at which the prompt ends.
    """

    prompt: np.ndarray
    real: np.ndarray
    joined: list[np.ndarray]
    begin: int
    sample_rate: int

    @property
    def drawn(self) -> list[np.ndarray]:
        """The continuations alone."""
        return [wave[self.begin :] for wave in self.joined]


def split_utterances(
    utterances: Iterable[Prompt],
    generator: Generator,
    settings: SplitSettings,
    *,
    left_out: dict[str, str],
) -> Iterator[Opening]:
    """Whole utterances → prompts with their real continuations.

    left_out: is given the key of each utterance that is too short, and why. Raises UsageError for
    tokens that are not the model's, and for a prompt too short for it.
    """
    needed = settings.prompt + settings.shortest
    for utterance in utterances:
        tokens = utterance.tokens
        if len(tokens) < needed:
            left_out[utterance.key] = (
                f"it has {len(tokens)} tokens; a prompt and the shortest continuation have {needed}"
            )
            continue
        prompt = tokens[: settings.prompt]
        try:
            generator.check(tokens)
            generator.check(prompt)
        except UsageError as error:
            error.value = error.value or f"{utterance.url}: {utterance.key}"
            raise
        real = tokens[settings.prompt : settings.prompt + settings.longest]
        yield Opening(key=utterance.key, prompt=prompt, real=real.astype(np.int64))


def draw_continuations(
    generator: Generator,
    openings: Iterable[Opening],
    settings: ContinuationSettings,
    *,
    show: Callable[[int], object] | None = None,
) -> Iterator[list[Continued]]:
    """Prompts → continuations, some utterances at a time: about `batch_size` continuations.

    A continuation is the one that jobs/generate.py gives for the same prompt, key, seed and number.
    show: called with the number of utterances just done.
    """
    openings, samples = iter(openings), range(settings.samples)
    while group := list(islice(openings, max(1, settings.batch_size // settings.samples))):
        rows = [(opening, sample) for opening in group for sample in samples]
        drawn: list[np.ndarray] = []
        for start in range(0, len(rows), settings.batch_size):
            batch = rows[start : start + settings.batch_size]
            made = generator.generate(
                [opening.prompt for opening, _ in batch],
                max(len(opening.real) for opening, _ in batch),
                [continuation_seed(settings.seed, opening.key, n) for opening, n in batch],
                sampling=settings.sampling,
            )
            drawn += [tokens[: len(opening.real)] for tokens, (opening, _) in zip(made, batch)]
        count = settings.samples
        yield [
            Continued(opening=opening, drawn=drawn[place * count : (place + 1) * count])
            for place, opening in enumerate(group)
        ]
        if show:
            show(len(group))


def sound_of(continued: Continued, decoding: Decoding) -> ContinuedSound:
    """The sound of prompt, real continuation and drawn ones, each decoded behind the prompt.

    Raises UsageError without a vocoder.
    """
    opening = continued.opening
    before = opening.prompt.astype(np.int64)
    begin = len(before) * decoding.samples_per_token
    real = decoding.waveform(np.concatenate([before, opening.real]))
    joined = [decoding.waveform(np.concatenate([before, tokens])) for tokens in continued.drawn]
    return ContinuedSound(
        prompt=real[:begin],
        real=real[begin:],
        joined=joined,
        begin=begin,
        sample_rate=decoding.sample_rate,
    )


def save_continued(output: Folder, continued: Continued, sound: ContinuedSound | None) -> None:
    """Publish an utterance's continuations as jobs/generate.py does, and KEY.real.wav beside.

    sound: None publishes tokens alone. With several continuations their files are KEY.1.wav and so
    on, and there is one KEY.real.wav.
    """
    key, drawn = continued.opening.key, continued.drawn
    for number, tokens in enumerate(drawn, start=1):
        waves, rate = {}, SAMPLE_RATE
        if sound:
            joined, rate = sound.joined[number - 1], sound.sample_rate
            waves = dict(zip(SOUND_ENDINGS, (joined, joined[sound.begin :]), strict=True))
        name = key if len(drawn) == 1 else f"{key}.{number}"
        write_continuation(output, name, tokens=tokens, waves=waves, sample_rate=rate)
    if sound:
        write_sounds(output, key, {"real.wav": sound.real}, sample_rate=sound.sample_rate)
