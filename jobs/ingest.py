"""Pack loose audio files into WebDataset shards, which the other jobs read.

Audio is copied unchanged. A .json file beside an audio file, of the same name, is packed with it;
where there is none, a .json with the file's path is made. Run it again to finish what is missing.
Exit status: 0 all done; 1 a shard failed; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.figures import failed_problems, kinds, print_problems


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
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    from pipeline.shards.listing import check_outside
    from pipeline.tokenize.ingest import find_audio, ingest
    from tokenizer.storage.folder import Folder

    files, left_out = flags.named("--input", find_audio, args.input)
    with flags.naming("--output", args.output):
        check_outside(args.input, args.output)
    output = flags.named("--output", Folder, args.output)
    done = ingest(files, output, int(args.shard_size_mb * 2**20))
    print(f"{done['files']:,} files, {done['bytes'] / 2**20:,.1f} MB, in {done['shards']:,} shards")
    if left_out.endings:
        print(f"left out, as they are no audio files: {kinds(left_out.endings)}")
    if left_out.unusable:
        names = ", ".join(map(repr, left_out.unusable))
        count = f"{len(left_out.unusable):,}"
        print(f"left out, as they are dead links or no regular files: {count}, {names}")
    print(f"written to {args.output}")
    return print_problems(failed_problems(done["failed"]))


if __name__ == "__main__":
    flags.run(main)
