"""The flags of jobs/ingest.py."""

from __future__ import annotations

import argparse
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING

from jobs.cli.parser import count, positive, positive_number, rate

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
    _add_filters(parser)
    parser.add_argument(
        "--dedup",
        choices=("exact",),
        help="leave out samples whose sound is exactly that of an earlier one",
    )
    parser.add_argument(
        "--shuffle",
        type=count,
        metavar="SEED",
        help="put sources and their samples in a random order (default: keep the inputs' order)",
    )
    parser.add_argument(
        "--shard-size-mb",
        type=positive_number,
        default=512,
        help="a shard ends with the file that fills it (default: %(default)s)",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-duration",
        type=positive_number,
        metavar="SECONDS",
        help="leave out shorter samples",
    )
    parser.add_argument(
        "--max-duration",
        type=positive_number,
        metavar="SECONDS",
        help="leave out longer samples",
    )
    parser.add_argument(
        "--max-clipped",
        type=rate,
        metavar="SHARE",
        help="leave out samples of which more is at full scale",
    )
    parser.add_argument(
        "--max-silence",
        type=rate,
        metavar="SHARE",
        help="leave out samples of which more is under -60 dB",
    )
    parser.add_argument(
        "--min-bandwidth",
        type=positive_number,
        metavar="HZ",
        help="leave out samples without sound up to this frequency",
    )
    parser.add_argument(
        "--min-snr",
        type=positive_number,
        metavar="DB",
        help="leave out samples with a lower signal-to-noise ratio",
    )
    parser.add_argument(
        "--min-dnsmos",
        type=positive_number,
        metavar="MOS",
        help="leave out samples with a lower DNSMOS, 1 to 5; needs 'wavmill[scores]'",
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        default=(),
        metavar="NAME",
        help="leave out samples whose metadata name another language",
    )
    parser.add_argument(
        "--speakers",
        nargs="+",
        default=(),
        metavar="NAME",
        help="leave out samples whose metadata name another speaker",
    )


def ingest_settings(args: argparse.Namespace) -> IngestSettings:
    """The settings that the flags give. Raises UsageError for those that do not go together."""
    from jobs.cli.errors import unusable
    from pipeline.ingest.filters import Filters
    from pipeline.ingest.settings import IngestSettings

    names = [field.name for field in fields(Filters) if field.init]
    filters = {name: getattr(args, name) for name in names}
    filters |= {name: tuple(filters[name]) for name in ("languages", "speakers")}
    if args.min_dnsmos is not None and find_spec("speechmos") is None:
        raise unusable(
            "--min-dnsmos",
            args.min_dnsmos,
            "it needs the package speechmos",
            remedy="pip install 'wavmill[scores]'",
        )
    return IngestSettings(
        shard_bytes=int(args.shard_size_mb * 2**20),
        segment=args.segment,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        channels=args.channels,
        sample_rate=args.sample_rate,
        filters=Filters(**filters),
        dedup=args.dedup is not None,
        shuffle=args.shuffle,
    )
