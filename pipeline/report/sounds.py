"""The sound of a report: pieces of the original audio, speech from tokens, both as small files.

An input shard is read once, as a stream, up to the last utterance of it that is needed. Of an
utterance only the pieces that are needed stay in memory, however long it is.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np
import soundfile

from pipeline.shards.inputs import SHARD_ENDINGS, Shard, find_shards
from pipeline.shards.reading import open_shard
from pipeline.shards.samples import read_samples
from tokenizer.audio.decoding import decode
from tokenizer.audio.frames import SAMPLE_RATE
from tokenizer.audio.reasons import AudioError
from tokenizer.audio.resampling import resample
from tokenizer.errors import UsageError, one_line
from tokenizer.storage.folder import filesystem
from tokenizer.storage.retries import patiently

# The rates that Opus takes, by RFC 6716.
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
# Samples at both ends of a piece that are faded, so that it starts without a click.
FADE_SECONDS = 0.005


class Span(NamedTuple):
    """A piece of an utterance, in seconds. It may begin before 0 and end after the utterance."""

    shard: str
    key: str
    start: float
    stop: float


@dataclass
class Originals:
    """Pieces of the original audio, (n,) float32 at 16 kHz each, and why others are missing."""

    waves: dict[Span, np.ndarray]
    problems: list[str]


def given_inputs(audio: list[str], names: Sequence[str]) -> dict[str, Shard]:
    """{shard name: input tar} of inputs, given as they were to the job that made the tokens.

    names: of the shards. Raises UsageError when none of the inputs has one of them.
    """
    _, shards = find_shards(audio)
    found = {shard.name: shard for shard in shards if shard.name in set(names)}
    if not found:
        have = f"{shards[0].name!r} is among them" if shards else "there is none"
        raise UsageError(
            f"no tar of it has the name of a shard, such as {names[0]!r}; {have}",
            "give what was the input when the tokens were made",
        )
    return found


def recorded_inputs(inputs_root: str, names: Iterable[str]) -> dict[str, Shard]:
    """{shard name: input tar} of those that are where run.json says.

    inputs_root: the inputs' common folder; "" where they had none.
    """
    if "://" not in inputs_root:
        return {}
    return {name: shard for name in names if (shard := _below(inputs_root, name))}


def _below(root: str, name: str) -> Shard | None:
    """The input of this name below the inputs' common folder, if it is still there."""
    for ending in SHARD_ENDINGS:
        url = f"{root.rstrip('/')}/{name}{ending}"
        try:
            fs, path = filesystem(url)
            if patiently(fs.exists, path):
                return Shard(name, url, size=-1)
        except (OSError, UsageError):
            return None  # a store that this machine does not reach: the report says so
    return None


def read_originals(spans: Iterable[Span], inputs: Mapping[str, Shard]) -> Originals:
    """The pieces of audio whose shard is among the inputs."""
    by_shard: dict[str, dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
    for span in spans:
        by_shard[span.shard][span.key].append(span)
    done = Originals({}, [])
    missing = sorted(by_shard.keys() - inputs.keys())
    if missing:
        which = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        text = f"There is no original sound of {len(missing)} shards ({which}): "
        done.problems.append(f"{text}their inputs are not where they were.")
    for name in sorted(by_shard.keys() & inputs.keys()):
        try:
            _read_shard(inputs[name], dict(by_shard[name]), done)
        except OSError as error:
            done.problems.append(f"{name}: {one_line(error)}")
    return done


def _read_shard(shard: Shard, wanted: dict[str, list[Span]], done: Originals) -> None:
    with open_shard(shard) as stream:
        for sample in read_samples(stream):
            if sample.audio is None:
                continue
            with sample.audio as audio:
                if sample.key not in wanted:
                    continue
                spans = wanted.pop(sample.key)
                try:
                    done.waves.update(_cut(audio, spans))
                except AudioError as error:
                    done.problems.append(f"{sample.key} in {shard.name}: {error}")
            if not wanted:
                return
    done.problems += [f"{key} is not in {shard.name} any more" for key in wanted]


def _cut(audio: IO[bytes], spans: list[Span]) -> dict[Span, np.ndarray]:
    """Pieces of an audio file, at 16 kHz, in one pass that ends with the last of them."""
    pieces: dict[Span, list[np.ndarray]] = {span: [] for span in spans}
    end, offset = max(span.stop for span in spans) * SAMPLE_RATE, 0
    for block in resample(*decode(cast(BinaryIO, audio))):
        for span, parts in pieces.items():
            start = max(0, round(span.start * SAMPLE_RATE) - offset)
            parts.append(block[start : max(0, round(span.stop * SAMPLE_RATE) - offset)].copy())
        offset += len(block)
        if offset >= end:
            break
    return {span: np.concatenate(parts) for span, parts in pieces.items() if parts}


def opus(wave: np.ndarray, rate: int, *, fade: bool = False) -> bytes:
    """(n,) samples → an Ogg Opus file, at their rate or the next one that Opus takes.

    fade: the ends, of a piece that was cut out.
    """
    if rate not in OPUS_RATES:
        new_rate = next((each for each in OPUS_RATES if each > rate), OPUS_RATES[-1])
        wave = np.concatenate(list(resample([wave], rate, new_rate)))
        rate = new_rate
    wave = wave.astype(np.float32).clip(-1, 1)
    if fade:
        samples = min(int(FADE_SECONDS * rate), len(wave) // 2)
        ramp = np.linspace(0, 1, samples, endpoint=False, dtype=np.float32)
        wave[:samples] *= ramp
        wave[len(wave) - samples :] *= ramp[::-1]
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="OGG", subtype="OPUS")
    return file.getvalue()
