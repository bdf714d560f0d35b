"""Scores of sound: the flags that name them and their models, and how they are printed."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.cli import flags

if TYPE_CHECKING:
    from pipeline.evaluation.score_models import ScoreSettings

SCORES = ("dwer", "utmos", "dnsmos", "similarity", "pitch", "stoi", "pesq")
NONE = "none"
# What the endings of names stand for, in the order of a table's columns.
SOUNDS = {"_of_original": "original", "_of_copy": "copy-synthesis", "": "resynthesis"}
# Columns of FocalCodec's table 2 (arXiv 2502.04465), {heading: score}, and more that others have.
COLUMNS = {
    "UTMOS": "utmos",
    "DNSMOS": "dnsmos_ovrl",
    "dWER %": "dwer",
    "dCER %": "dcer",
    "Sim %": "speaker_similarity",
    "F0 corr": "f0_correlation",
    "VDE %": "voicing_error",
    "STOI": "stoi",
    "PESQ": "pesq",
}
UNSCORED_SHOWN = 10


def add_score_models(group: argparse._ActionsContainer) -> None:
    """--asr, --language, --speaker-model and --utmos."""
    group.add_argument(
        "--asr",
        metavar="MODEL",
        help="recogniser of speech: a Whisper, or CTC on wav2vec 2.0, HuBERT or WavLM, as a folder "
        "or hub id such as openai/whisper-small; or pocketsphinx, whose model is in its package",
    )
    group.add_argument(
        "--language",
        default="en",
        help="of the speech, as Whisper names it; the texts of another than English are "
        "normalised as Whisper does those (default: %(default)s)",
    )
    group.add_argument(
        "--speaker-model",
        metavar="MODEL",
        help="x-vector model for similarity, as a folder or hub id such as microsoft/wavlm-base-sv "
        "(default: Resemblyzer)",
    )
    group.add_argument(
        "--utmos",
        metavar="MODEL",
        help="UTMOS as TorchScript, as a folder or hub id such as balacoon/utmos",
    )


def add_scores(parser: argparse.ArgumentParser) -> None:
    """--scores and the flags of its models."""
    group = parser.add_argument_group("scores of resynthesised speech")
    group.add_argument(
        "--scores",
        nargs="+",
        choices=(*SCORES, NONE),
        metavar="SCORE",
        help=f"of {', '.join(SCORES)}; or {NONE} (default: all whose package is installed; dwer "
        "with --asr, utmos with --utmos)",
    )
    add_score_models(group)


def score_settings(args: argparse.Namespace, has_vocoder: bool) -> ScoreSettings | None:
    """What is to be scored; None for nothing. Says on stderr which packages are missing for more.

    Raises UsageError for flags that cannot be used together.
    """
    from pipeline.evaluation.score_models import ScoreSettings, default_scores

    models = {"asr": args.asr, "speaker_model": args.speaker_model, "utmos": args.utmos}
    wanted = any([args.scores, *models.values()])
    if args.scores and NONE in args.scores:
        if len(args.scores) > 1 or any(models.values()):
            problem, remedy = "something else is to be scored", f"leave out {NONE}"
            raise flags.unusable("--scores", " ".join(args.scores), problem, remedy=remedy)
        return None
    if not has_vocoder and wanted:
        problem = "the tokenizer has no vocoder, and so no sound to score"
        remedy = "train one with jobs/train_vocoder.py, or leave out the flags of scores"
        raise flags.unusable("--tokenizer", args.tokenizer, problem, remedy=remedy)
    if not has_vocoder:
        return None
    scores, missing = default_scores(**models)
    if args.scores:
        scores = list(dict.fromkeys(args.scores))
    elif missing:
        names = ", ".join(missing)
        remedy = "pip install 'wavmill[scores]'"
        print(f"fewer scores, without {names}: {remedy}", file=sys.stderr, flush=True)
    return ScoreSettings(
        scores=tuple(scores), language=args.language, device=_device(args.device), **models
    )


def print_scores(scores: Mapping[str, dict], unscored: Mapping[str, Mapping[str, int]]) -> None:
    """A row a score, a column a kind of sound, 95 % intervals beside; then what has no score."""
    bases = list(dict.fromkeys(map(_base, scores)))
    shown = {ending: name for ending, name in SOUNDS.items() if _any_ends(scores, ending)}
    width = max(map(len, bases), default=0) + 2
    print(f"\n{'':<{width}}" + "".join(f"{name:>26}" for name in shown.values()) + "  unit")
    for base in bases:
        cells = (_with_interval(scores.get(f"{base}{ending}")) for ending in shown)
        unit = next(scores[name]["unit"] for name in scores if _base(name) == base)
        print(f"{base:<{width}}" + "".join(f"{cell:>26}" for cell in cells) + f"  {unit}")
    lines = [(name, why, count) for name, whys in unscored.items() for why, count in whys.items()]
    for name, why, count in lines[:UNSCORED_SHOWN]:
        print(f"{name}: {count:,} without: {why}")
    if len(lines) > UNSCORED_SHOWN:
        print(f"{len(lines) - UNSCORED_SHOWN:,} more such lines; --json has them all")
    for model in dict.fromkeys(score["model"] for score in scores.values()):
        names = [base for base in bases if _model(scores, base) == model]
        print(f"{', '.join(names)}: {model}")


def print_row(name: str, figures: Mapping[str, Any], scores: Mapping[str, dict]) -> None:
    """The table that papers on codecs print, a row a kind of sound. name: the tokenizer's.

    RTF is FocalCodec's: seconds of audio in a second of work.
    """
    columns = {head: score for head, score in COLUMNS.items() if _has(scores, score)}
    tokens = {
        "kbps": figures["bitrate"] / 1000,
        "tokens/s": figures["tokens_per_second"],
    }
    after = {
        "code usage %": 100 * figures["code_usage"],
        "norm. entropy %": 100 * figures["normalized_entropy"],
        "RTF": figures["times_real_time"],
    }
    heads = [*tokens, *columns, *after]
    width = max(len(name), 14) + 2
    print(f"\n{'':<{width}}" + "".join(f"{head:>{len(head) + 3}}" for head in heads))
    for ending, kind in SOUNDS.items():
        if not _any_ends(scores, ending):
            continue
        cells = [_value(scores.get(f"{score}{ending}")) for score in columns.values()]
        of_tokens = ending == ""
        first = [f"{value:.2f}" if of_tokens else "-" for value in tokens.values()]
        last = [f"{value:.1f}" if of_tokens else "-" for value in after.values()]
        row = zip(heads, [*first, *cells, *last], strict=True)
        label = name if of_tokens else kind
        print(f"{label:<{width}}" + "".join(f"{cell:>{len(head) + 3}}" for head, cell in row))


def _device(given: str) -> str:
    """Where the models of scores run: in this process, on a GPU that it sees and may use."""
    import torch

    return "cuda" if given != "cpu" and torch.cuda.is_available() else "cpu"


def _base(name: str) -> str:
    return name.removesuffix("_of_copy").removesuffix("_of_original")


def _any_ends(scores: Mapping[str, dict], ending: str) -> bool:
    return any(name == f"{_base(name)}{ending}" for name in scores)


def _has(scores: Mapping[str, dict], base: str) -> bool:
    return any(_base(name) == base for name in scores)


def _model(scores: Mapping[str, dict], base: str) -> str:
    return next(score["model"] for name, score in scores.items() if _base(name) == base)


def _digits(unit: str) -> int:
    return 1 if unit == "%" else 2


def _value(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    if score["value"] is None or not math.isfinite(score["value"]):
        return "undefined"
    return f"{score['value']:.{_digits(score['unit'])}f}"


def _with_interval(score: Mapping[str, Any] | None) -> str:
    if score is None or score["low"] is None:
        return _value(score)
    digits = _digits(score["unit"])
    return f"{_value(score)} ({score['low']:.{digits}f} to {score['high']:.{digits}f})"
