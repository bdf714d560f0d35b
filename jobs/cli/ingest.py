"""The flags of jobs/ingest.py."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.cli.parser import positive, positive_number

if TYPE_CHECKING:
    from pipeline.ingest.settings import IngestSettings

FORMATS = ("audio", "jsonl", "csv", "kaldi", "lhotse", "parquet", "tar")


def add_ingest(parser: argparse.ArgumentParser) -> None:
    """What decides how sources become samples."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="what the inputs are (default: told by their names and first lines)",
    )
    parser.add_argument(
        "--audio-root",
        metavar="URL",
        help="folder of the paths in a manifest; nothing outside it is read "
        "(default: the manifest's own)",
    )
    parser.add_argument(
        "--path-column",
        metavar="NAME",
        help="column of a CSV or TSV that names the audio (default: path, audio, file_name, ...)",
    )
    parser.add_argument(
        "--segment",
        choices=("vad", "fixed"),
        help="cut long recordings: at pauses, found by Silero VAD, or evenly "
        "(default: keep them whole)",
    )
    parser.add_argument(
        "--min-seconds",
        type=positive_number,
        default=3.0,
        help="the shortest segment (default: %(default)s)",
    )
    parser.add_argument(
        "--max-seconds",
        type=positive_number,
        default=30.0,
        help="the longest segment (default: %(default)s)",
    )
    parser.add_argument(
        "--channels",
        choices=("mix", "first", "split"),
        default="mix",
        help="of several channels: their mean, the first, or a sample of each "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--sample-rate",
        type=positive,
        metavar="HZ",
        help="of all audio that is written, which is then FLAC (default: each file's own)",
    )
    parser.add_argument(
        "--shard-size-mb",
        type=positive_number,
        default=512,
        help="a shard ends with the file that fills it (default: %(default)s)",
    )


def ingest_settings(args: argparse.Namespace) -> IngestSettings:
    """The settings that the flags give. Raises UsageError for those that do not go together."""
    from jobs.cli.errors import naming
    from pipeline.ingest.settings import IngestSettings

    with naming("--min-seconds", args.min_seconds):
        return IngestSettings(
            shard_bytes=int(args.shard_size_mb * 2**20),
            segment=args.segment,
            min_seconds=args.min_seconds,
            max_seconds=args.max_seconds,
            channels=args.channels,
            sample_rate=args.sample_rate,
        )
