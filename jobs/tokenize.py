"""Tokenize audio shards: the main job. Audio tars in, token tars out, every sample accounted for.

Run it again to finish what is missing. Exit status: 0 all done; 1 a shard failed or was broken, or
more was rejected than --max-reject-rate; 2 unusable arguments.
"""

import sys
from pathlib import Path

# As a script, this file's folder comes first and `tokenize` would shadow the standard library's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from pipeline.shards.inputs import find_shards
from pipeline.tokenize.job import open_output, tokenize


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/tokenize.py --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--output out/tokens",
    )
    flags.add_input(parser, "audio shards (.tar)")
    parser.add_argument("--output", required=True, metavar="URL", help="folder for token shards")
    flags.add_tokenizer(parser)
    parser.add_argument(
        "--max-reject-rate",
        type=flags.rate,
        default=0.1,
        help="exit with 1 if a larger share of samples was rejected (default: %(default)s)",
    )
    flags.add_encoders(parser)
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    root, shards = flags.named("--input", find_shards, args.input)
    files = flags.read_tokenizer(args.tokenizer)
    settings = flags.tokenize_settings(args)
    output = open_output(
        args.output, files, source=args.tokenizer, settings=settings, inputs_root=root
    )
    summary = tokenize(shards, output, flags.encoder_settings(args))
    print_summary(summary, args.output)
    problems = []
    for name, why in summary["failed"].items():
        problems.append(f"shard {name} failed: {why}; run the same command again")
    for name in summary["incomplete_shards"]:
        problems.append(
            f"shard {name} is incomplete: its tar is broken; mend it, delete "
            f"{args.output}/reports/{name}.parquet and run the same command again"
        )
    share = summary["rejected"] / max(summary["samples"], 1)
    if share > args.max_reject_rate:
        problems.append(f"{share:.1%} rejected, over --max-reject-rate {args.max_reject_rate:.1%}")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


def print_summary(summary: dict, output: str) -> None:
    """What a person wants to know of a run."""
    run, codebook = summary["this_run"], summary["codebook"]
    print(
        f"{summary['samples']:,} samples in {summary['shards']:,} shards: {summary['ok']:,} ok, "
        f"{summary['rejected']:,} rejected"
    )
    for reason, count in summary["rejected_by_reason"].items():
        print(f"  {count:,} {reason}")
    print(
        f"{summary['audio_hours']:.3f} h of audio, {summary['tokens']:,} tokens, "
        f"{codebook['active_codes']:,} of {codebook['size']:,} codes used, "
        f"perplexity {codebook['perplexity']:.1f}"
    )
    if run:
        print(
            f"this run: {run['shards']:,} shards, {run['audio_hours']:.3f} h in "
            f"{run['seconds']:.1f} s, {run['times_real_time']:.0f} x real time "
            f"on {run['device']}"
        )
    else:
        print("this run: nothing was left to do")
    print(f"written to {output}: shards/, reports/, manifest.parquet, summary.json")


if __name__ == "__main__":
    flags.run(main)
