"""`jobs/evaluate.py lm`: how well a language model predicts tokens, and which of two it prefers."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jobs.cli import flags
from jobs.cli.figures import open_json, print_figures, show
from lm.config import LMError
from lm.evaluation.audio_tokens import audio_tokens
from lm.evaluation.benchmarks import Pair, read_pairs
from lm.evaluation.pairs import Judged, by_task
from lm.evaluation.scoring import BATCH_TOKENS, bits_per_token, check_tokens, utterance_scores
from lm.files import read_lm
from lm.model import SpeechLM
from lm.training.data import TokenShards
from pipeline.cluster.progress import bar
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

LM = """Measure a language model.

With --input: bits per token on token shards, all tokens of all utterances, the first chunk too.
With --pairs: how often it finds the right one of two recordings the likelier (SALMon, sWUGGY,
sBLIMP, spoken StoryCloze, or what jobs/make_pairs.py made), once by nats per token and once by
their sum. Recordings are tokenized by the model's own tokenizer; a tie counts half. Intervals are
of 95 % (Wilson's, over groups of pairs: the voices that say one word are one group).
"""

MEANINGS = {
    "bits_per_token": "the mean over all tokens of all utterances",
    "perplexity": "2 to the bits_per_token",
    "bits_per_second": "of audio: to compare tokenizers of other rates",
    "audio_hours": "that the tokens stand for",
}
# Utterances are scored this many tokens at a time, sorted by length within them.
TOKENS_AT_ONCE = 1 << 20


def add_lm(commands) -> None:
    """The command's flags. commands: the subparsers of jobs/evaluate.py."""
    lm = commands.add_parser(
        "lm",
        help="a language model, by token shards or by pairs of recordings",
        description=LM.strip(),
        epilog="example:\n  python jobs/evaluate.py lm --lm out/lm/model --input out/tokens "
        "--pairs out/pairs --json out/figures.json",
        formatter_class=flags.argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    lm.add_argument(
        "--lm", required=True, metavar="URL", help="the model/ that jobs/train_lm.py wrote"
    )
    lm.add_argument("--input", metavar="URL", help="an OUTPUT of jobs/tokenize.py")
    lm.add_argument(
        "--pairs",
        nargs="+",
        default=[],
        metavar="URL",
        help="folders of recordings in pairs, searched to any depth",
    )
    lm.add_argument("--json", metavar="URL", help="file for the figures")
    add_model_flags(lm)


def add_model_flags(parser: flags.argparse.ArgumentParser) -> None:
    """--device, --precision and --batch-tokens of a job that scores in its own process."""
    where = parser.add_argument_group("where and how it runs")
    where.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    where.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the language model (default: %(default)s)",
    )
    where.add_argument(
        "--batch-tokens",
        type=flags.positive,
        default=BATCH_TOKENS,
        help="tokens that are scored at once, padding included (default: %(default)s)",
    )


def read_model(value: str, device: str, precision: str) -> tuple[SpeechLM, TokenizerFiles | None]:
    """The language model that --lm names, and its tokenizer. Raises UsageError when it is none."""
    folder = flags.named("--lm", fetch_folder, value, "a language model")
    try:
        return read_lm(folder, device, precision)
    except LMError as error:
        remedy = "give the model/ that jobs/train_lm.py wrote"
        raise flags.unusable("--lm", value, str(error), remedy) from error


def open_tokens(flag: str, value: str, model: SpeechLM, lm: str) -> TokenShards:
    """The token shards that a flag names. Raises UsageError when they are none, or not this LM's.

    lm: where the model came from, for the message.
    """
    with flags.naming(flag):
        tokens, _ = TokenShards.open(value)
        tokens.folder.check_tokenizer(model.config.tokenizer, f"--lm {lm}")
    return tokens


def read_utterances(
    flag: str, value: str, tokens: TokenShards, model: SpeechLM
) -> Iterator[tuple[str, np.ndarray]]:
    """(key, (T,) tokens) of all utterances that have any. Raises UsageError at one the model, or
    anyone, cannot take.
    """
    with flags.naming(flag, value, "give tokens of the model's codebook"):
        for key, own in tokens.utterances():
            if len(own):
                check_tokens(own, model.config.codebook_size, key)
                yield key, own


def evaluate_lm(args: flags.argparse.Namespace) -> int:
    """Flags in, figures out."""
    if not args.input and not args.pairs:
        raise flags.unusable("--input", "(none)", "nothing is to be measured", "give it or --pairs")
    device, precision = flags.device_and_precision(args)
    model, files = read_model(args.lm, device, precision)
    tokens = open_tokens("--input", args.input, model=model, lm=args.lm) if args.input else None
    pairs = {value: find_pairs(value) for value in args.pairs}
    if pairs and files is None:
        problem = "it has no tokenizer: it was trained on imported tokens"
        raise flags.unusable("--lm", args.lm, problem, "leave --pairs out")
    write_json = open_json(args.json) if args.json else None
    record = {"lm": args.lm, "tokenizer": model.config.tokenizer, "device": device}
    try:
        figures = prediction(args, tokens, model) if tokens else {}
        tokenizer = Tokenizer(files, device) if pairs else None
        judged = {
            value: by_task(
                judge(value, own, model=model, tokenizer=tokenizer, batch_tokens=args.batch_tokens)
            )
            for value, own in pairs.items()
        }
    except LMError as error:
        raise flags.unusable("--lm", args.lm, str(error), "train it again") from error
    print(f"{args.lm}: tokenizer {str(model.config.tokenizer)[:12]}")
    print_figures(figures, MEANINGS)
    print_pairs(judged)
    if write_json:
        write_json({**record, "input": args.input, **figures, "pairs": judged})
        print(f"written to {args.json}")
    return 0


def prediction(
    args: flags.argparse.Namespace, tokens: TokenShards, model: SpeechLM
) -> dict[str, float | int]:
    """Figures of token shards."""
    scores: list[tuple[float, int]] = []
    waiting, size = [], 0
    with bar("scored", "utterances", tokens.num_utterances) as line:
        for _, own in read_utterances("--input", args.input, tokens=tokens, model=model):
            waiting.append(own)
            size += len(own)
            if size >= TOKENS_AT_ONCE:
                scores += utterance_scores(
                    model, waiting, batch_tokens=args.batch_tokens, show=line.update
                )
                waiting, size = [], 0
        if waiting:
            scores += utterance_scores(
                model, waiting, batch_tokens=args.batch_tokens, show=line.update
            )
    bits, count = bits_per_token(scores), sum(number for _, number in scores)
    return {
        "bits_per_token": bits,
        "perplexity": 2**bits if bits < 1000 else math.inf,
        "bits_per_second": bits * tokens.tokens_per_second,
        "tokens": count,
        "utterances": len(scores),
        "audio_hours": count / tokens.tokens_per_second / 3600,
    }


def find_pairs(value: str) -> list[Pair]:
    """The pairs that a value of --pairs names. Raises UsageError when there are none."""
    folder = flags.named("--pairs", fetch_folder, value, "pairs of recordings")
    try:
        return read_pairs(folder)
    except LMError as error:
        remedy = "give a benchmark's folder, or make one with jobs/make_pairs.py"
        raise flags.unusable("--pairs", value, str(error), remedy) from error


def judge(
    value: str, pairs: list[Pair], model: SpeechLM, tokenizer: Tokenizer, batch_tokens: int
) -> list[Judged]:
    """Tokenize and score the recordings of a folder. Recordings of the same tokens score the same.

    Raises UsageError when one cannot be tokenized.
    """
    paths = list(dict.fromkeys(path for pair in pairs for path in (pair.positive, pair.negative)))
    name = Path(value.rstrip("/")).name
    try:
        with bar(f"tokenized {name}", "files", len(paths)) as line:
            tokens = dict(zip(paths, audio_tokens(paths, tokenizer, line.update), strict=True))
    except LMError as error:
        raise flags.unusable(
            "--pairs", value, str(error), "mend the file or take it out"
        ) from error
    distinct = {own.tobytes(): own for own in tokens.values()}
    with bar(f"scored {name}", "files", len(distinct)) as line:
        scores = utterance_scores(
            model, list(distinct.values()), batch_tokens=batch_tokens, show=line.update
        )
    score = dict(zip(distinct, scores))
    of_path = {path: score[own.tobytes()] for path, own in tokens.items()}
    return [Judged(pair, of_path[pair.positive], of_path[pair.negative]) for pair in pairs]


def print_pairs(judged: dict[str, dict]) -> None:
    """A line a task, and one for each of its subsets."""
    for value, tasks in judged.items():
        width = max(36, *(len(task) + 2 for task in tasks))
        columns = f"{'pairs':>8}{'per token':>11}{'95 %':>18}{'summed':>9}{'95 %':>18}"
        print(f"{value:<{width}}{columns}")
        for task, figures in tasks.items():
            _print_row(task, figures, width)
            for name, part in figures.get("subsets", {}).items():
                _print_row(f"  {name}", part, width)


def _print_row(name: str, figures: dict, width: int) -> None:
    cells = f"{figures['pairs']:>8,}"
    for variant, room in (("per_token", 11), ("summed", 9)):
        low, high = figures[f"interval_{variant}"]
        cells += f"{show(figures[f'accuracy_{variant}']):>{room}}{f'{low:.3f} to {high:.3f}':>18}"
    print(f"{name:<{width}}{cells}")
