"""Measure a tokenizer or a language model, and print a table of figures.

With --json the figures are written to a file too. Exit status: 0 done; 1 a shard failed or was
broken; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import evaluation, flags
from jobs.cli.figures import open_json, print_figures, print_problems


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/evaluate.py tokens --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--json out/figures.json",
    )
    commands = flags.add_commands(parser, "what", "WHAT")
    evaluation.add_tokens_command(commands)
    evaluation.add_lm_command(commands)
    return parser.parse_args()


def main() -> int:
    """Flags in, the command they name, its exit status out."""
    args = parse()
    return evaluate_lm(args) if args.what == "lm" else evaluate_tokenizer(args)


def evaluate_tokenizer(args: flags.argparse.Namespace) -> int:
    """`tokens`: one call into the pipeline, a table out."""
    from pipeline.evaluation.evaluate_decoding import FeatureFigures, decoding_figures
    from pipeline.evaluation.evaluate_tokens import evaluate_tokens
    from pipeline.shards.inputs import find_shards
    from tokenizer.storage.fetch import fetch_folder

    root, shards = flags.named("--input", find_shards, args.input)
    files = flags.read_tokenizer(args.tokenizer)
    args.precision = flags.settled_precision(args, args.output)
    flags.warn_of_bf16(files, args.precision)
    settings = flags.tokenize_settings(args)
    phones, items = evaluation.read_annotation(args, shards)
    features = None
    if args.encoder:
        folder = flags.named("--encoder", fetch_folder, args.encoder, kind="a WavLM", hub=True)
        with flags.naming("--encoder", args.encoder, "give the WavLM it was made from"):
            features = FeatureFigures(files, folder)
    write_json = open_json(args.json) if args.json else None
    done = evaluate_tokens(
        shards,
        root,
        files=files,
        source=args.tokenizer,
        settings=settings,
        encoder_settings=flags.encoder_settings(args),
        phones=phones,
        items=items,
        output=args.output,
        compare_precision=args.compare_precision,
    )
    windowing = settings.windowing(files)
    done.figures.update(decoding_figures(shards, files, windowing=windowing, features=features))
    print(f"{args.tokenizer}: tokenizer {done.tokenizer[:12]}")
    print_figures(done.figures, evaluation.TOKEN_MEANINGS)
    evaluation.print_left_out(done.left_out)
    if write_json:
        record = {"tokenizer": done.tokenizer, "input": args.input, **done.figures}
        write_json({**record, "left_out": done.left_out, "problems": done.problems})
        print(f"written to {args.json}")
    return print_problems(done.problems)


def evaluate_lm(args: flags.argparse.Namespace) -> int:
    """`lm`: one call for token shards, one for each folder of pairs, a table out."""
    evaluation.check_lm_flags(args)
    from lm.evaluation.judge import find_pairs, open_tokens, pair_figures, prediction_figures
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
    figures, judged = {}, {}
    if tokenizer:
        say_precision("fp32", device)
    with flags.naming("--lm", args.lm):
        if tokens:
            with flags.naming("--input", args.input):
                figures = prediction_figures(
                    model, tokens, batch_tokens=args.batch_tokens, progress=bar
                )
        for url, found in pairs.items():
            with flags.naming("--pairs", url):
                assert tokenizer is not None
                judged[url] = pair_figures(
                    model, found, tokenizer, batch_tokens=args.batch_tokens, progress=bar
                )
    print(f"{args.lm}: tokenizer {str(model.config.tokenizer)[:12]}")
    evaluation.print_lm(figures, judged)
    if write_json:
        record = {"lm": args.lm, "tokenizer": model.config.tokenizer, "device": device}
        write_json({**record, "input": args.input, **figures, "pairs": judged})
        print(f"written to {args.json}")
    return 0


if __name__ == "__main__":
    flags.run(main)
