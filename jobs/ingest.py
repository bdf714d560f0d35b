"""Pack audio as people have it into WebDataset shards, which the other jobs read.

An input is a folder or glob of loose audio files; a manifest: JSON lines (NeMo's and others), CSV
or TSV, a Kaldi folder, lhotse's cuts or recordings; Parquet tables as Hugging Face's `datasets`
writes them (hf://datasets/... too); or ready tars. It is told by what it holds. Whole recordings
are copied unchanged; parts are cut exactly, and written as FLAC. What lies beside the audio under
its name (json, txt, TextGrid and others) goes with it, and each row's other fields become the
sample's json. Run it again to finish what is missing. Exit status: 0 all done; 1 a shard failed, or
more was rejected than --max-reject-rate; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.figures import failed_problems, kinds, print_problems, reject_problems
from jobs.cli.ingest import add_ingest, ingest_settings


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        """python jobs/ingest.py --input recordings/ --output s3://bucket/shards
        python jobs/ingest.py --input train.jsonl --output out/train --channels split""",
    )
    flags.add_input(parser, "audio, manifests of it, Parquet tables or tars")
    flags.add_output(parser, "the shards")
    add_ingest(parser)
    flags.add_max_reject_rate(parser, "samples")
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    from pipeline.ingest.inputs import find_sources
    from pipeline.ingest.job import ingest
    from pipeline.shards.listing import check_outside
    from tokenizer.storage.folder import Folder

    settings = ingest_settings(args)
    with flags.naming("--input", " ".join(args.input)):
        sources, left_out = find_sources(
            args.input, args.format, audio_root=args.audio_root, path_column=args.path_column
        )
    with flags.naming("--output", args.output):
        check_outside(args.input, args.output)
    output = flags.named("--output", Folder, args.output)
    done = ingest(sources, output, settings)
    print(
        f"{done['sources']:,} files, {done['bytes'] / 2**20:,.1f} MB: {done['samples']:,} samples, "
        f"{done['ok']:,} ok, {done['rejected']:,} rejected"
    )
    for reason, count in done["rejected_by_reason"].items():
        print(f"  {count:,} {reason}")
    if left_out.endings:
        print(f"left out, as they are no audio files: {kinds(left_out.endings)}")
    if left_out.unusable:
        names = ", ".join(map(repr, left_out.unusable))
        count = f"{len(left_out.unusable):,}"
        print(f"left out, as they are dead links or no regular files: {count}, {names}")
    if done["left_beside"]:
        left = kinds(done["left_beside"])
        print(f"left out beside the audio, as too large or of recordings that are cut: {left}")
    if done["spans_left"]:
        print(f"left out of the segments, as they lie in none: {kinds(done['spans_left'])} spans")
    print(f"written to {args.output}: shards, reports/, manifest.parquet, summary.json")
    problems = failed_problems(done["failed"])
    return print_problems(problems + reject_problems(done, args.max_reject_rate))


if __name__ == "__main__":
    flags.run(main)
