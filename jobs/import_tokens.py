"""Import units of other encoders: JSON lines in, token shards out.

A line is {"key": ..., "units": [...]}, one utterance. The shards name no tokenizer, so a language
model of them learns its own input embedding. Other fields of a line are kept as its metadata. Run
it again to finish what is missing. Exit status: 0 all done; 1 a file was broken, or more was
rejected than --max-reject-rate; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.figures import print_codes, print_problems, print_samples, reject_problems
from pipeline.settings import ImportSettings
from tokenizer.audio.frames import FRAMES_PER_SECOND


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__, "python jobs/import_tokens.py --input 'units/*.jsonl.gz' --output out/tokens"
    )
    flags.add_input(parser, "JSON lines (.jsonl, .jsonl.gz)")
    flags.add_output(parser, "token shards")
    parser.add_argument(
        "--codebook-size",
        type=flags.positive,
        help="number of codes (default: the largest unit + 1)",
    )
    parser.add_argument(
        "--tokens-per-second",
        type=flags.positive_number,
        default=FRAMES_PER_SECOND,
        help="for durations (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-tokens",
        type=flags.positive,
        default=1_000_000,
        help="a shard ends with the utterance that fills it (default: %(default)s)",
    )
    flags.add_max_reject_rate(parser, "lines")
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    from pipeline.shards.inputs import find_files
    from pipeline.tokenize.import_tokens import import_tokens
    from pipeline.tokenize.unit_lines import ENDINGS
    from tokenizer.storage.folder import Folder

    settings = ImportSettings(
        codebook_size=args.codebook_size,
        tokens_per_second=float(args.tokens_per_second),
        shard_tokens=args.shard_tokens,
    )
    _, files = flags.named("--input", find_files, args.input, ENDINGS)
    summary = import_tokens(files, flags.named("--output", Folder, args.output), settings)
    print_samples(summary, "lines")
    print_codes(summary, "h")
    if not summary["this_run"]:
        print("this run: nothing was left to do")
    print(f"written to {args.output}: shards/, reports/, manifest.parquet, summary.json")
    problems = reject_problems(summary, args.max_reject_rate)
    if summary["incomplete_shards"]:
        broken = (
            "a file of --input is broken: it has a row broken_file in manifest.parquet; mend it "
            "and give another --output"
        )
        problems.insert(0, broken)
    return print_problems(problems)


if __name__ == "__main__":
    flags.run(main)
