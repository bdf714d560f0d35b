"""--method kmeans of jobs/train_tokenizer.py: one call into the pipeline, and a summary."""

import argparse
from pathlib import Path
from typing import Any

from jobs.cli import flags
from jobs.cli.figures import failed_problems, print_problems
from jobs.cli.training.tokenizer_flags import FRAMES_PER_CODE
from pipeline.settings import LEAST_FRAMES_PER_CODE, AllFramesSettings, KmeansSettings
from pipeline.shards.inputs import find_shards
from pipeline.training.lloyd.job import train_on_all_frames
from pipeline.training.train_kmeans import train_tokenizer
from tokenizer.storage.folder import Folder, public_url
from tokenizer.storage.tokenizer_files import TokenizerFiles


def train(args: argparse.Namespace) -> int:
    """Cluster, and say what the codebook was made of."""
    frames_per_code = LEAST_FRAMES_PER_CODE if args.all_frames else FRAMES_PER_CODE
    settings = KmeansSettings(
        codebook_size=args.codebook_size,
        metric=args.metric,
        max_frames=args.max_frames or frames_per_code * args.codebook_size,
        iterations=args.iterations,
        seed=args.seed,
        center=args.center,
        whiten=args.whiten,
    )
    if args.whiten and args.metric == "cosine":
        raise flags.unusable(
            "--whiten",
            args.whiten,
            problem="it works with --metric l2 alone",
            remedy="leave one out",
        )
    if settings.max_frames < settings.codebook_size:
        raise flags.unusable(
            "--max-frames",
            settings.max_frames,
            problem=f"{settings.codebook_size} codes need as many frames",
            remedy="raise it or lower --codebook-size",
        )
    _, shards = flags.named("--input", find_shards, args.input)
    config, weights = flags.encoder(args.encoder, args.layer)
    if args.whiten > config.hidden_size:
        raise flags.unusable(
            "--whiten",
            args.whiten,
            problem=f"the features have {config.hidden_size} dimensions",
            remedy="ask for fewer",
        )
    output = flags.named("--output", Folder, args.output)
    output.check_free("config.json")
    made_by = {
        "method": args.method,
        "encoder": public_url(args.encoder),
        "seed": args.seed,
        "iterations": args.iterations,
        "max_frames": settings.max_frames,
        "center": args.center,
        "whiten": args.whiten,
        "precision": args.precision,
        "shards": len(shards),
    }
    files = TokenizerFiles(
        config,
        args.metric,
        weights={f"encoder.{k}": v for k, v in weights.items()},
        made_by=made_by,
    )
    more: dict[str, Any] = {
        "files": files,
        "settings": settings,
        "encoding": flags.tokenize_settings(args),
        "encoder_settings": flags.encoder_settings(args),
    }
    if args.all_frames:
        files.made_by["all_frames"] = True
        done = train_on_all_frames(shards, output, all_frames=_all_frames(args), **more)
    else:
        done = train_tokenizer(shards, output, **more)
    for reason, count in sorted(done["rejected"].items()):
        print(f"left out {count:,} samples: {reason}")
    if status := print_problems(failed_problems(done["failed"], "shard")):
        return status
    unit = "mean cosine" if args.metric == "cosine" else "mean squared distance"
    print(
        f"{args.codebook_size:,} codes from {done['frames']:,} frames of {len(shards):,} shards, "
        f"{unit} {done['objective']:.4g}"
    )
    print(f"written to {args.output}: tokenizer {done['fingerprint'][:12]}")
    return 0


def _all_frames(args: argparse.Namespace) -> AllFramesSettings:
    """Raises UsageError for a cache folder that cannot be used here."""
    if args.cache_folder and not args.cache_gb:
        raise flags.unusable(
            "--cache-folder",
            args.cache_folder,
            problem="nothing is kept there without --cache-gb",
            remedy="give that too, or leave this out",
        )
    folder = str(Path(args.cache_folder).absolute()) if args.cache_folder else None
    return AllFramesSettings(passes=args.passes, cache_gb=args.cache_gb, cache_folder=folder)
