"""Token shards of other people's units: JSON lines of {key, units}, one utterance each.

The shards name no tokenizer, so a language model of them learns what a token is by itself. Other
fields of a line are kept as its metadata. Run it again to finish what is missing. Exit status: 0
all done; 1 a file was broken, or more was rejected than --max-reject-rate; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from pipeline.settings import ImportSettings
from pipeline.shards.inputs import find_files
from pipeline.tokenize.import_tokens import import_tokens
from pipeline.tokenize.unit_lines import ENDINGS, MOST_CODES
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.storage.folder import Folder


def codes(text: str) -> int:
    """A codebook's size."""
    value = flags.positive(text)
    if value > MOST_CODES:
        raise flags.argparse.ArgumentTypeError(f"{text} is over {MOST_CODES:,}")
    return value


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/import_tokens.py --input 'units/*.jsonl.gz' --output out/tokens",
    )
    flags.add_input(parser, "JSON lines (.jsonl, .jsonl.gz)")
    parser.add_argument("--output", required=True, metavar="URL", help="folder for token shards")
    parser.add_argument(
        "--codebook-size", type=codes, help="codes there are (default: the largest unit + 1)"
    )
    parser.add_argument(
        "--tokens-per-second",
        type=flags.positive_number,
        default=FRAMES_PER_SECOND,
        help="of which durations come (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-tokens",
        type=flags.positive,
        default=1_000_000,
        help="a shard ends with the utterance that fills it (default: %(default)s)",
    )
    parser.add_argument(
        "--max-reject-rate",
        type=flags.rate,
        default=0.1,
        help="exit with 1 if a larger share of lines was rejected (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    _, files = flags.named("--input", find_files, args.input, ENDINGS)
    settings = ImportSettings(
        codebook_size=args.codebook_size,
        tokens_per_second=float(args.tokens_per_second),
        shard_tokens=args.shard_tokens,
    )
    summary = import_tokens(files, flags.named("--output", Folder, args.output), settings)
    codebook = summary["codebook"]
    print(
        f"{summary['samples']:,} lines in {summary['shards']:,} shards: {summary['ok']:,} ok, "
        f"{summary['rejected']:,} rejected"
    )
    for reason, count in summary["rejected_by_reason"].items():
        print(f"  {count:,} {reason}")
    print(
        f"{summary['audio_hours']:.3f} h, {summary['tokens']:,} tokens, "
        f"{codebook['active_codes']:,} of {codebook['size']:,} codes used, "
        f"perplexity {codebook['perplexity']:.1f}"
    )
    if not summary["this_run"]:
        print("this run: nothing was left to do")
    print(f"written to {args.output}: shards/, reports/, manifest.parquet, summary.json")
    problems = []
    if summary["incomplete_shards"]:
        problems.append(
            "a file of --input is broken: it has a row broken_file in manifest.parquet; mend it "
            "and give another --output"
        )
    share = summary["rejected"] / max(summary["samples"], 1)
    if share > args.max_reject_rate:
        problems.append(f"{share:.1%} rejected, over --max-reject-rate {args.max_reject_rate:.1%}")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    flags.run(main)
