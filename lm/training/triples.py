"""Preference triples: a prompt, the chosen continuation and the rejected continuation, in tokens.

The format is JSON lines of {"key", "prompt", "chosen", "rejected"}, gzipped or not. A part is a
list of codes, or {"units": [...]} or {"audio_repr": "<Un3><Un49>..."} as SlamKit writes it.
"tokenizer" may give the fingerprint of the tokenizer that made the tokens.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lm.config import LMConfig, LMError
from lm.evaluation.scoring import check_tokens
from lm.generation import Generator
from lm.training.settings import TripleSettings

PARTS = ("prompt", "chosen", "rejected")
GZIP = b"\x1f\x8b"
UNIT = re.compile(r"<Un(\d+)>")
# A shorter continuation is too little to express a preference.
SHORTEST_CONTINUATION = 4


@dataclass(frozen=True)
class Triple:
    """prompt, chosen, rejected: (T,) integers each, none empty."""

    key: str
    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray


def read_triples(data: bytes, model: LMConfig) -> list[Triple]:
    """Parse the content of a file. Raises LMError that names the line which is wrong.

    model: that is trained on the triples; it gives codebook, tokenizer and the shortest prompt.
    """
    tokenizer, least = model.tokenizer, model.unscored_tokens
    try:
        text = (gzip.decompress(data) if data.startswith(GZIP) else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LMError("it is neither UTF-8 text nor gzip of it") from error
    triples = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LMError(f"line {number} is not JSON") from error
        missing = [part for part in PARTS if not isinstance(row, dict) or part not in row]
        if missing:
            raise LMError(f'line {number} has no "{missing[0]}"')
        if row.get("tokenizer", tokenizer) != tokenizer:
            made_by, ours = str(row["tokenizer"])[:12], str(tokenizer)[:12]
            raise LMError(f"line {number} is of tokenizer {made_by}, and the model of {ours}")
        parts = [_codes(row[part], f'"{part}" of line {number}') for part in PARTS]
        for part, codes in zip(PARTS, parts):
            check_tokens(codes, model.codebook_size, f'"{part}" of line {number}')
        if len(parts[0]) < least:
            raise LMError(
                f'"prompt" of line {number} has {len(parts[0])} tokens, and the model, without '
                f"START, continues {least} or more"
            )
        triples.append(Triple(str(row.get("key", number)), *parts))
    if not triples:
        raise LMError("it has no triples")
    return triples


def _codes(value: object, what: str) -> np.ndarray:
    if isinstance(value, dict):
        value = value.get("units", value.get("audio_repr"))
    if isinstance(value, str):
        value = [int(code) for code in UNIT.findall(value)]
    if not isinstance(value, list) or any(type(code) is not int for code in value):
        raise LMError(f"{what} is not a list of whole numbers")
    if any(abs(code) >= 1 << 31 for code in value):
        raise LMError(f"{what} has a token that is not a code")
    return np.array(value, np.int64)


def write_triples(triples: Iterable[Triple], tokenizer: str | None) -> bytes:
    """The gzipped file of some triples. The same triples give the same bytes."""
    lines = []
    for triple in triples:
        row = {"key": triple.key, **{part: getattr(triple, part).tolist() for part in PARTS}}
        lines.append(json.dumps(row | ({"tokenizer": tokenizer} if tokenizer else {})) + "\n")
    return gzip.compress("".join(lines).encode(), mtime=0)


def make_triples(
    generator: Generator,
    utterances: Iterable[tuple[str, np.ndarray]],
    settings: TripleSettings,
    show: Callable[[int], object] | None = None,
) -> Iterator[Triple]:
    """Triples of real utterances: chosen is the real continuation, rejected is the model's.

    Both have the same length, so that length has no influence. Utterances with fewer than 4 tokens
    after the prompt are left out. utterances: (key, tokens). show: called with the number of
    triples just made.
    """
    least = settings.prompt_tokens + SHORTEST_CONTINUATION
    usable = ((key, tokens) for key, tokens in utterances if len(tokens) >= least)
    limited = islice(usable, settings.most)
    made = 0
    while batch := list(islice(limited, settings.batch)):
        start, end = settings.prompt_tokens, settings.prompt_tokens + settings.continuation_tokens
        prompts = [tokens[:start].astype(np.int64) for _, tokens in batch]
        real = [tokens[start:end].astype(np.int64) for _, tokens in batch]
        seeds = [settings.seed + made + index for index in range(len(batch))]
        generated = generator.generate(
            prompts, max(map(len, real)), seeds, sampling=settings.sampling
        )
        for (key, _), prompt, chosen, continuation in zip(batch, prompts, real, generated):
            yield Triple(key, prompt, chosen=chosen, rejected=continuation[: len(chosen)])
        made += len(batch)
        if show:
            show(len(batch))
