"""Tokenize audio shards: audio tars in, token tars out, a report row per sample.

This is the main job. Run it again to finish what is missing. Exit status: 0 all done; 1 a shard
failed or was broken, or more was rejected than --max-reject-rate; 2 unusable arguments.
"""

import sys
from pathlib import Path

# As a script, this file's folder comes first and `tokenize` would shadow the standard library's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.encoders import add_companions, with_companions
from jobs.cli.figures import (
    failed_problems,
    kinds,
    print_codes,
    print_companions,
    print_problems,
    print_samples,
    reject_problems,
)


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/tokenize.py --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--output out/tokens",
    )
    flags.add_input(parser, "audio shards (.tar)")
    flags.add_output(parser, "token shards")
    flags.add_tokenizer(parser)
    flags.add_max_reject_rate(parser, "samples")
    parser.add_argument(
        "--on-changed",
        choices=("keep", "redo", "refuse"),
        default="keep",
        help="what to do about shards whose input has changed since they were made: keep them and "
        "say so, make them again, or stop (default: %(default)s)",
    )
    add_companions(parser)
    flags.add_encoders(parser)
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    from pipeline.shards.inputs import find_shards
    from pipeline.shards.listing import LeftOut, check_outside
    from pipeline.tokenize.job import changed_text, open_output, tokenize

    left_out = LeftOut()
    root, shards = flags.named("--input", find_shards, args.input, left_out)
    with flags.naming("--output", args.output):
        check_outside(args.input, args.output)
    files = flags.read_tokenizer(args.tokenizer)
    args.precision = flags.settled_precision(args, args.output)
    settings = with_companions(flags.tokenize_settings(args), args)
    output = open_output(
        args.output, files, source=args.tokenizer, settings=settings, inputs_root=root
    )
    flags.warn_of_bf16(files, args.precision)
    summary = tokenize(shards, output, flags.encoder_settings(args), on_changed=args.on_changed)
    if left_out.endings:
        print(f"note: --input also has {kinds(left_out.endings)}; only tars are shards")
    if summary["changed"]:
        print(f"note: {changed_text(summary['changed'])}; --on-changed redo makes them again")
    print_samples(summary, "samples")
    print_codes(summary, "h of audio")
    print_companions(summary)
    run = summary["this_run"]
    if run:
        print(
            f"this run: {run['shards']:,} shards, {run['audio_hours']:.3f} h in "
            f"{run['seconds']:.1f} s, {run['times_real_time']:.0f} x real time on {run['device']}"
        )
    else:
        print("this run: nothing was left to do")
    print(f"written to {args.output}: shards/, reports/, manifest.parquet, summary.json")
    problems = failed_problems(summary["failed"], "shard") + [
        f"shard {name} is incomplete: its tar is broken; mend it, delete "
        f"{args.output}/reports/{name}.parquet and run the same command again"
        for name in summary["incomplete_shards"]
    ]
    return print_problems(problems + reject_problems(summary, args.max_reject_rate))


if __name__ == "__main__":
    flags.run(main)
