"""`lm` of jobs/evaluate.py: its flags, and what it does with them."""

import argparse

from jobs.cli import flags
from jobs.cli.evaluation.lm_scores import pair_scores, prediction_scores
from jobs.cli.figures import open_json, print_figures, show, with_intervals
from jobs.cli.parser import Commands, add_command

LM = """Measure a language model.

With --input: bits per token on token shards, over all tokens of all utterances; a model without
START does not predict their first chunk, which does not count then. With --pairs: how often the
model gives the right one of two recordings the higher likelihood (SALMon, sWUGGY, sBLIMP, spoken
StoryCloze, or what jobs/make_pairs.py made), once by nats per token and once by their sum.
Recordings are tokenized by the model's tokenizer; a tie counts half. Intervals are 95 %: of bits
over utterances (bootstrap), of pairs over their groups (Wilson's; the voices that say one word are
one group).
"""
# Of two recordings.
CHANCE = 0.5
LM_MEANINGS = {
    "bits_per_token": "mean over all predicted tokens of all utterances",
    "perplexity": "2 to the bits_per_token",
    "bits_per_second": "of audio: comparable between tokenizers of other rates",
    "audio_hours": "that the tokens stand for",
}


def add_lm_command(commands: Commands) -> None:
    """`lm`, with its flags."""
    parser = add_command(
        commands,
        "lm",
        about="a language model, by token shards or by pairs of recordings",
        description=LM,
        example="python jobs/evaluate.py lm --lm out/lm/model --input out/tokens "
        "--pairs out/pairs --json out/figures.json",
    )
    flags.add_lm(parser)
    parser.add_argument("--input", metavar="URL", help="an OUTPUT of jobs/tokenize.py")
    parser.add_argument(
        "--pairs",
        nargs="+",
        default=[],
        metavar="URL",
        help="folders of recordings in pairs, searched to any depth",
    )
    parser.add_argument("--json", metavar="URL", help="file for the figures")
    where = parser.add_argument_group("where it runs: in this process")
    flags.add_device(where)
    where.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the language model (default: %(default)s)",
    )
    where.add_argument(
        "--batch-tokens",
        type=flags.positive,
        default=8192,
        help="tokens scored at once, padding included (default: %(default)s)",
    )
    parser.set_defaults(run=evaluate_lm)


def evaluate_lm(args: argparse.Namespace) -> int:
    """`lm`: one call for token shards, one for each folder of pairs, a table out."""
    check_lm_flags(args)
    from lm.evaluation.judge import find_pairs, judge_pairs, open_tokens, predict
    from lm.evaluation.pairs import by_task
    from pipeline.cluster.progress import bar, say_precision
    from tokenizer.tokenizer import Tokenizer

    device, precision = flags.device_and_precision(args)
    model, files = flags.read_model(args.lm, device, precision)
    tokens = flags.named("--input", open_tokens, args.input, model) if args.input else None
    pairs = {url: flags.named("--pairs", find_pairs, url) for url in args.pairs}
    if pairs and not files:
        problem = "it has no tokenizer: it was trained on imported tokens"
        raise flags.unusable("--lm", args.lm, problem=problem, remedy="leave --pairs out")
    tokenizer = Tokenizer(files, device) if pairs and files else None
    write_json = open_json(args.json) if args.json else None
    predicted, judged = None, {}
    if tokenizer:
        say_precision("fp32", device)
    with flags.naming("--lm", args.lm):
        if tokens:
            with flags.naming("--input", args.input):
                predicted = predict(model, tokens, batch_tokens=args.batch_tokens, progress=bar)
        for url, found in pairs.items():
            with flags.naming("--pairs", url):
                assert tokenizer is not None
                judged[url] = judge_pairs(
                    model, found, tokenizer, batch_tokens=args.batch_tokens, progress=bar
                )
    print(f"{args.lm}: tokenizer {str(model.config.tokenizer)[:12]}")
    figures = predicted.figures if predicted else {}
    scored = pair_scores(judged)
    if predicted and tokens:
        found = prediction_scores(predicted, tokens.tokens_per_second, model.config.tokenizer)
        scored = {**found, **scored, "scores": {**found["scores"], **scored["scores"]}}
    of_pairs = {url: by_task(found) for url, found in judged.items()}
    print_figures(figures, with_intervals(LM_MEANINGS, scored["scores"]))
    print_pairs(of_pairs)
    if write_json:
        record = {"lm": args.lm, "tokenizer": model.config.tokenizer, "device": device}
        write_json({**record, "input": args.input, **figures, "pairs": of_pairs, **scored})
        print(f"written to {args.json}")
    return 0


def check_lm_flags(args: argparse.Namespace) -> None:
    """Raises UsageError if the flags of `lm` name nothing to measure."""
    if not args.input and not args.pairs:
        problem = "nothing is to be measured"
        raise flags.unusable("--input", "(none)", problem, remedy="give it or --pairs")


def print_pairs(judged: dict[str, dict]) -> None:
    """A line for each task of each folder of pairs, and one for each subset."""
    for folder, tasks in judged.items():
        width = max(36, *(len(task) + 2 for task in tasks))
        columns = f"{'pairs':>8}{'per token':>11}{'95 %':>18}{'summed':>9}{'95 %':>18}"
        print(f"{folder:<{width}}{columns}")
        for task, figures in tasks.items():
            _print_row(task, figures, width)
            for name, subset in figures.get("subsets", {}).items():
                _print_row(f"  {name}", subset, width)
    if judged:
        print(f"* chance, {CHANCE}, is outside the interval")


def _print_row(name: str, figures: dict, width: int) -> None:
    cells = f"{figures['pairs']:>8,}"
    for variant, column in (("per_token", 11), ("summed", 9)):
        low, high = figures[f"interval_{variant}"]
        accuracy = show(figures[f"accuracy_{variant}"])
        mark = " " if low <= CHANCE <= high else "*"
        cells += f"{accuracy:>{column}}{f'{low:.3f} to {high:.3f}{mark}':>18}"
    print(f"{name:<{width}}{cells}".rstrip())
