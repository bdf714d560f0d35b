"""Train a tokenizer on audio shards, from the features of one WavLM layer.

kmeans clusters a sample of the features. distill trains a compressor, one codebook and a
decompressor, so that what comes out is what WavLM had, at its layer and at its top; with --causal
it first trains an encoder that streams. It goes on after a kill when the same command is run again,
and logs to OUTPUT/training. Writes a folder (config.json, model.safetensors) that holds the
encoder's weights up to the layer, and the rest.
Exit status: 0 done; 1 a shard failed, or the loss is no number any more; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import distillation, flags
from pipeline.settings import KmeansSettings
from pipeline.shards.inputs import find_shards
from pipeline.training.train_kmeans import train_tokenizer
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles

# FAISS's own bound: more frames a code than this change its centroid little.
FRAMES_PER_CODE = 256
KMEANS_ONLY = ("--metric", "--iterations", "--center", "--whiten")


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/train_tokenizer.py --input tests/speech --encoder wavlm-tiny "
        "--layer 4 --codebook-size 128 --method kmeans --output out/tokenizer",
    )
    flags.add_input(parser, "audio shards (.tar)")
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the tokenizer")
    parser.add_argument(
        "--encoder",
        required=True,
        metavar="URL",
        help="a WavLM: wavlm-tiny, which ships, a folder or URL, or the hub id "
        "microsoft/wavlm-large, -base or -base-plus; or mfcc, or mfcc-standardized for each "
        "dimension of zero mean and unit variance over a window: what to compare a WavLM with",
    )
    parser.add_argument(
        "--layer",
        type=flags.positive,
        default=6,
        help="whose features, of a WavLM (default: %(default)s)",
    )
    parser.add_argument(
        "--codebook-size", type=flags.positive, default=1024, help="codes (default: %(default)s)"
    )
    parser.add_argument("--method", choices=("kmeans", "distill"), default="kmeans")
    parser.add_argument(
        "--metric",
        choices=("l2", "cosine"),
        default="l2",
        help="cosine is spherical k-means (default: %(default)s)",
    )
    parser.add_argument(
        "--max-frames",
        type=flags.positive,
        help=f"frames to cluster, over all shards (default: {FRAMES_PER_CODE} a code)",
    )
    parser.add_argument(
        "--iterations", type=flags.positive, default=25, help="of k-means (default: %(default)s)"
    )
    parser.add_argument(
        "--center",
        action="store_true",
        help="move the mean of each window's features to that of all: codes then say less of who "
        "speaks, and more of what is said",
    )
    parser.add_argument(
        "--whiten",
        type=flags.positive,
        default=0,
        metavar="DIMENSIONS",
        help="cluster so many principal components, scaled to unit variance: 32 helps in WavLM's "
        "upper layers (default: the features as they are)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    own = distillation.add_flags(parser)
    flags.add_encoders(parser)
    args = parser.parse_args()
    others = own if args.method == "kmeans" else KMEANS_ONLY
    for given in sys.argv[1:]:
        flag = given.partition("=")[0]
        if flag in others:
            raise flags.unusable(
                "--method", args.method, f"it has no use for {flag}", "leave that out"
            )
    return args


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    return distillation.run(args) if args.method == "distill" else clustered(args)


def clustered(args: flags.argparse.Namespace) -> int:
    """--method kmeans."""
    settings = KmeansSettings(
        codebook_size=args.codebook_size,
        metric=args.metric,
        max_frames=args.max_frames or FRAMES_PER_CODE * args.codebook_size,
        iterations=args.iterations,
        seed=args.seed,
        center=args.center,
        whiten=args.whiten,
    )
    if args.whiten and args.metric == "cosine":
        raise flags.unusable("--whiten", args.whiten, "it goes with --metric l2", "leave one out")
    if settings.max_frames < settings.codebook_size:
        raise flags.unusable(
            "--max-frames",
            settings.max_frames,
            f"{settings.codebook_size} codes need as many frames",
            "raise it or lower --codebook-size",
        )
    _, shards = flags.named("--input", find_shards, args.input)
    config, weights = flags.encoder(args.encoder, args.layer)
    if args.whiten > config.hidden_size:
        raise flags.unusable(
            "--whiten",
            args.whiten,
            f"the features have {config.hidden_size} dimensions",
            "ask for fewer",
        )
    output = flags.named("--output", Folder, args.output)
    output.check_free("config.json")
    made_by = {
        "method": args.method,
        "encoder": args.encoder,
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
    done = train_tokenizer(
        shards,
        output,
        files=files,
        settings=settings,
        encoding=flags.tokenize_settings(args),
        encoder_settings=flags.encoder_settings(args),
    )
    for reason, count in sorted(done["rejected"].items()):
        print(f"left out {count:,} samples: {reason}")
    for name, why in done["failed"].items():
        print(f"problem: shard {name} failed: {why}; run the same command again", file=sys.stderr)
    if done["failed"]:
        return 1
    unit = "mean cosine" if args.metric == "cosine" else "mean squared distance"
    print(
        f"{args.codebook_size:,} codes from {done['frames']:,} frames of {len(shards):,} shards, "
        f"{unit} {done['objective']:.4g}"
    )
    print(f"written to {args.output}: tokenizer {done['fingerprint'][:12]}")
    return 0


if __name__ == "__main__":
    flags.run(main)
