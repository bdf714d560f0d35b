"""An OUTPUT of token shards → the page of its report: one pass over reports, one over a few shards.

Memory does not grow with the number of utterances: of all reports only sums and a dozen drawn
utterances are kept, and sound comes from the shards that hold these.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.report import sound_sections, token_sections
from pipeline.report.frame_index import TokensRead, codes_to_show, read_shards
from pipeline.report.overview import DrawnUtterance, Overview, read_overview
from pipeline.report.page import ReportPage
from pipeline.report.sound_sections import ShownCode, ShownSample
from pipeline.report.sounds import Originals, Span, read_originals, recorded_inputs
from pipeline.shards.inputs import Shard
from tokenizer.codec.decoder import Decoding
from tokenizer.errors import one_line
from tokenizer.storage.folder import Folder, public_url
from tokenizer.storage.token_folder import TokenFolder, read_record
from tokenizer.storage.tokenizer_files import TokenizerFiles

# What is shown of a long utterance, and around the middle of a frame.
MOST_SECONDS = 12.0
AROUND_SECONDS = 0.14
NEAREST = 3


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """samples: utterances that are shown. codes: whose sound is shown, with so many snippets each.

    seed: what is drawn depends on it alone. inputs: the input tars by the names of their shards;
    None looks where run.json says.
    """

    samples: int = 12
    codes: int = 12
    snippets: int = 8
    seed: int = 0
    inputs: Mapping[str, Shard] | None = None


def token_page(
    tokens: TokenFolder,
    files: TokenizerFiles | None,
    settings: ReportSettings,
    *,
    device: str = "cpu",
    notes: list[str],
    show: Callable[[int], object] | None = None,
) -> tuple[ReportPage, TokensRead]:
    """The page, with all that tokens alone can say, and what was read of the drawn shards.

    files: of the tokenizer that made the tokens, for resynthesis; None without. notes: what the
    reader should know of missing sound; what is not found here is added. show: called with the
    number of reports just read. Raises UsageError for damage.
    """
    record = read_record(tokens.folder) or {}
    seed = settings.seed
    overview = read_overview(tokens.folder, draw=settings.samples, seed=seed, show=show)
    summary = _read_summary(tokens.folder)
    codes = codes_to_show(overview.code_counts, settings.codes)
    read = read_shards(tokens, overview.drawn, codes=codes, each=settings.snippets, seed=seed)
    decoding = Decoding(files, device) if files and files.vocoder else None
    sounds = _find_sounds(record, overview, read, settings=settings, rate=tokens.tokens_per_second)
    notes += sounds.problems

    page = ReportPage(
        f"Tokens of {public_url(tokens.folder.given)}",
        f"{_source(record)}, {tokens.codebook_size:,} codes, {tokens.tokens_per_second:g} tokens a "
        "second",
    )
    token_sections.add_totals(page, overview, summary)
    token_sections.add_durations(page, overview)
    token_sections.add_codes(page, overview, tokens.tokens_per_second)
    token_sections.add_throughput(page, overview.finished, summary.get("this_run"))
    if overview.drawn:
        samples = [
            _sample(
                utterance, read, sounds=sounds, decoding=decoding, rate=tokens.tokens_per_second
            )
            for utterance in overview.drawn
        ]
        sound_sections.add_samples(page, samples, seed=seed, notes=notes)
        shown = _codes(overview, read, sounds=sounds, files=files, rate=tokens.tokens_per_second)
        shards = len({utterance.shard for utterance in overview.drawn})
        sound_sections.add_units(page, shown, frames=read.frames, shards=shards)
    return page, read


def _source(record: dict) -> str:
    if not record.get("tokenizer"):
        return "imported units"
    return f"{record.get('tokenizer_source', '')} (tokenizer {record['tokenizer'][:12]})"


def _read_summary(folder: Folder) -> dict:
    """What summary.json says; {} while there is none. Raises UsageError for a damaged one."""
    try:
        summary = json.loads(folder.read_text("summary.json") or "{}")
        if not isinstance(summary, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        problem = f"its summary.json is damaged: {one_line(error)}"
        raise folder.refused(problem, "run the job that makes it again") from error
    return summary


def _find_sounds(
    record: dict, overview: Overview, read: TokensRead, *, settings: ReportSettings, rate: float
) -> Originals:
    """All pieces of original audio that the page needs, each input read once."""
    spans = [_whole(utterance) for utterance in overview.drawn]
    for code in read.index.codes.tolist():
        spans += [_around(read, *place, rate=rate) for place in read.index.places(code)]
    inputs, root = settings.inputs, record.get("inputs")
    if inputs is None and record.get("tokenizer"):
        names = sorted({span.shard for span in spans})
        inputs = recorded_inputs(root if isinstance(root, str) else "", names)
    # Of imported tokens there is no input that is sound: the reader has been told.
    return read_originals(spans if inputs is not None else [], inputs or {})


def _whole(utterance: DrawnUtterance) -> Span:
    return Span(utterance.shard, utterance.key, start=0.0, stop=MOST_SECONDS)


def _around(read: TokensRead, utterance: int, frame: int, *, rate: float) -> Span:
    """rate: tokens a second."""
    middle = (frame + 0.5) / rate
    shard, key = read.names[utterance]
    return Span(shard, key, start=middle - AROUND_SECONDS, stop=middle + AROUND_SECONDS)


def _sample(
    utterance: DrawnUtterance,
    read: TokensRead,
    *,
    sounds: Originals,
    decoding: Decoding | None,
    rate: float,
) -> ShownSample:
    tokens = read.tokens[utterance.shard, utterance.key][: round(MOST_SECONDS * rate)]
    return ShownSample(
        utterance,
        tokens,
        seconds=len(tokens) / rate,
        original=sounds.waves.get(_whole(utterance)),
        resynthesis=decoding.waveform(tokens) if decoding else None,
        rate=decoding.sample_rate if decoding else 0,
    )


def _codes(
    overview: Overview,
    read: TokensRead,
    *,
    sounds: Originals,
    files: TokenizerFiles | None,
    rate: float,
) -> list[ShownCode]:
    counts = overview.code_counts
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    shown = []
    for code in sorted(read.index.codes.tolist(), key=lambda code: ranks[code]):
        spans = [_around(read, *place, rate=rate) for place in read.index.places(code)]
        snippets = [
            (f"{span.key} at {span.start + AROUND_SECONDS:.2f} s", sounds.waves[span])
            for span in spans
            if len(sounds.waves.get(span, ()))
        ]
        nearest = _nearest(files, code) if files else []
        shown.append(
            ShownCode(code, int(counts[code]), int(ranks[code]), nearest=nearest, snippets=snippets)
        )
    return shown


def _nearest(files: TokenizerFiles, code: int) -> list[int]:
    """The codes nearest to this one; of codes of length 1 that is the order of angles too."""
    codes = files.weights["codebook.codes"].float()
    distances = torch.cdist(codes[code][None], codes)[0]
    return [int(i) for i in distances.argsort()[: NEAREST + 1] if int(i) != code][:NEAREST]
