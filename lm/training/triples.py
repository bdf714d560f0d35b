"""Triples of tokens to learn a preference from: a prompt, how it should go on, how it should not.

As JSON lines of {"key", "prompt", "chosen", "rejected"}, gzipped or not, each part a list of codes,
or as SlamKit writes it, {"units": [...]} or {"audio_repr": "<Un3><Un49>..."}. "tokenizer" may name
the fingerprint of what made the tokens.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lm.config import LMError
from lm.evaluation.scoring import check_tokens
from lm.generation import Generator
from lm.training.settings import TripleSettings

PARTS = ("prompt", "chosen", "rejected")
GZIP = b"\x1f\x8b"
UNIT = re.compile(r"<Un(\d+)>")
# Fewer tokens than this say nothing of how a prompt should go on.
SHORTEST_CONTINUATION = 4


@dataclass(frozen=True)
class Triple:
    """prompt, chosen, rejected: (T,) integers each, none empty."""

    key: str
    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray


def read_triples(data: bytes, codebook_size: int, tokenizer: str | None) -> list[Triple]:
    """The triples of a file's content. Raises LMError that names a line which is none.

    codebook_size, tokenizer: of the model that is to learn from them.
    """
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
        if not isinstance(row, dict) or (lacking := [part for part in PARTS if part not in row]):
            what = lacking[0] if isinstance(row, dict) else PARTS[0]
            raise LMError(f'line {number} has no "{what}"')
        if row.get("tokenizer", tokenizer) != tokenizer:
            made_by, ours = str(row["tokenizer"])[:12], str(tokenizer)[:12]
            raise LMError(f"line {number} is of tokenizer {made_by}, and the model of {ours}")
        parts = [_codes(row[part], f'"{part}" of line {number}') for part in PARTS]
        for part, codes in zip(PARTS, parts):
            check_tokens(codes, codebook_size, f'"{part}" of line {number}')
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
        raise LMError(f"{what} is no list of whole numbers")
    if any(abs(code) >= 1 << 31 for code in value):
        raise LMError(f"{what} has a token that is no code")
    return np.array(value, np.int64)


def write_triples(triples: Iterable[Triple], tokenizer: str | None) -> bytes:
    """As read_triples reads them, gzipped; the same triples give the same bytes."""
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
    """Triples of real utterances: chosen is how one goes on, rejected how the model makes it do.

    Both have as many tokens, so that length decides nothing. Utterances with fewer than 4 tokens
    after the prompt are left out. utterances: (key, tokens). show: called with triples just made.
    """
    least = settings.prompt_tokens + SHORTEST_CONTINUATION
    usable = islice((own for own in utterances if len(own[1]) >= least), settings.most)
    made = 0
    while some := list(islice(usable, settings.batch)):
        begin, end = settings.prompt_tokens, settings.prompt_tokens + settings.continuation_tokens
        prompts = [tokens[:begin].astype(np.int64) for _, tokens in some]
        real = [tokens[begin:end].astype(np.int64) for _, tokens in some]
        seeds = [settings.seed + made + place for place in range(len(some))]
        said = generator.generate(prompts, max(map(len, real)), seeds, settings.sampling)
        for (key, _), prompt, chosen, own in zip(some, prompts, real, said):
            yield Triple(key, prompt, chosen=chosen, rejected=own[: len(chosen)])
        made += len(some)
        if show:
            show(len(some))
