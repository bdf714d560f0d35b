"""Pack loose audio files into WebDataset shards, which the other jobs read.

The audio is copied as it is. A .json beside a file, of the same name, goes with it; without one a
.json with the file's path is made. Run it again to finish what is missing. Exit status: 0 all done;
1 a shard failed; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from pipeline.tokenize.ingest import find_audio, ingest
from tokenizer.storage.folder import Folder


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(), "python jobs/ingest.py --input recordings/ --output s3://bucket/shards"
    )
    flags.add_input(parser, "audio files (flac, wav, ogg, opus, mp3)")
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the shards")
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
    files = find_audio(args.input)
    done = ingest(
        files, flags.named("--output", Folder, args.output), int(args.shard_size_mb * 2**20)
    )
    for name, why in done["failed"].items():
        print(f"problem: {name} failed: {why}; run the same command again", file=sys.stderr)
    print(f"{done['files']:,} files, {done['bytes'] / 2**20:,.1f} MB, in {done['shards']:,} shards")
    print(f"written to {args.output}")
    return 1 if done["failed"] else 0


if __name__ == "__main__":
    flags.run(main)
