"""Pack loose audio files into WebDataset shards, which the other jobs read.

Audio is copied unchanged. A .json file beside an audio file, of the same name, is packed with it;
where there is none, a .json with the file's path is made. Run it again to finish what is missing.
Exit status: 0 all done; 1 a shard failed, or more was rejected than --max-reject-rate; 2 unusable
arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.figures import failed_problems, print_problems, reject_problems


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__, "python jobs/ingest.py --input recordings/ --output s3://bucket/shards"
    )
    flags.add_input(parser, "audio files (flac, wav, mp3, m4a and others)")
    flags.add_output(parser, "the shards")
    parser.add_argument(
        "--shard-size-mb",
        type=flags.positive_number,
        default=512,
        help="a shard ends with the file that fills it (default: %(default)s)",
    )
    flags.add_max_reject_rate(parser, "samples")
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    from pipeline.ingest.job import ingest
    from pipeline.ingest.loose import find_loose
    from pipeline.ingest.settings import IngestSettings
    from pipeline.shards.listing import check_outside
    from tokenizer.storage.folder import Folder

    sources, left_out = flags.named("--input", find_loose, args.input)
    with flags.naming("--output", args.output):
        check_outside(args.input, args.output)
    output = flags.named("--output", Folder, args.output)
    settings = IngestSettings(shard_bytes=int(args.shard_size_mb * 2**20))
    done = ingest(sources, output, settings)
    print(
        f"{done['sources']:,} files, {done['bytes'] / 2**20:,.1f} MB: {done['samples']:,} samples, "
        f"{done['ok']:,} ok, {done['rejected']:,} rejected"
    )
    for reason, count in done["rejected_by_reason"].items():
        print(f"  {count:,} {reason}")
    if left_out:
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in sorted(left_out.items()))
        print(f"left out, as they are no audio files: {kinds}")
    print(f"written to {args.output}: shards, reports/, manifest.parquet, summary.json")
    problems = failed_problems(done["failed"])
    return print_problems(problems + reject_problems(done, args.max_reject_rate))


if __name__ == "__main__":
    flags.run(main)
