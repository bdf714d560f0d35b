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

from jobs import flags
from pipeline.causal_encoder import causal_form
from pipeline.distill_job import DistillSettings, distill
from pipeline.errors import UsageError
from pipeline.inputs import find_shards
from pipeline.storage import Folder, fetch_folder
from pipeline.train_kmeans_job import KmeansSettings, train_tokenizer
from pipeline.training_loop import TrainingFailed, TrainingSettings
from tokenizer.audio import FRAMES_PER_SECOND
from tokenizer.distillation import LossWeights
from tokenizer.focal import FocalConfig
from tokenizer.mfcc import MFCCConfig
from tokenizer.tokenizer import TokenizerFiles
from tokenizer.wavlm_config import EncoderError

# FAISS's own bound: more frames a code than this change its centroid little.
FRAMES_PER_CODE = 256


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
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    add_distillation(parser)
    flags.add_encoders(parser)
    return parser.parse_args()


def add_distillation(parser: flags.argparse.ArgumentParser) -> None:
    """The flags of --method distill."""
    own = parser.add_argument_group("with --method distill")
    own.add_argument(
        "--quantizer",
        choices=("codebook", "bsq"),
        default="codebook",
        help="a learned codebook, or binary spherical codes (default: %(default)s)",
    )
    own.add_argument(
        "--steps",
        type=flags.positive,
        default=3000,
        help="of training with the codebook (default: %(default)s)",
    )
    own.add_argument(
        "--warm-up-steps",
        type=flags.positive,
        default=500,
        help="before it, without one (default: %(default)s)",
    )
    own.add_argument(
        "--hidden",
        type=flags.positive,
        nargs="+",
        help="width of each block of the compressor (default: two, as wide as the features)",
    )
    own.add_argument(
        "--latent",
        type=flags.positive,
        default=32,
        help="dimensions of a code; a binary one has one a bit (default: %(default)s)",
    )
    own.add_argument(
        "--loss-weights",
        type=flags.positive_number,
        nargs=3,
        default=[1, 1, 0.25],
        metavar=("FEATURES", "TOP", "QUANTIZER"),
        help="of the features' error, the top layer's, the quantizer's own (default: %(default)s)",
    )
    own.add_argument(
        "--causal",
        action="store_true",
        help="a tokenizer for streams: it hears nothing later than a chunk of 80 ms. Rows of at "
        "least 12 s let its encoder practise all that it sees of the past",
    )
    own.add_argument(
        "--encoder-steps",
        type=flags.positive,
        default=3000,
        help="with --causal, of training its encoder before all else (default: %(default)s)",
    )
    own.add_argument("--learning-rate", type=flags.positive_number, default=1e-3)
    own.add_argument(
        "--rows", type=flags.positive, default=8, help="rows in a batch (default: %(default)s)"
    )
    own.add_argument(
        "--row-seconds", type=flags.positive_number, default=4, help="default: %(default)g"
    )
    own.add_argument(
        "--workers", type=flags.positive, default=1, help="processes, one a GPU (default: 1)"
    )
    own.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=2, help="default: %(default)g"
    )


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    if args.causal and (args.method != "distill" or args.center):
        raise UsageError(
            "--causal",
            "with --center" if args.center else f"with --method {args.method}",
            "an encoder becomes causal in distillation, and a stream has no mean to centre",
            "give --method distill, and no --center",
        )
    return distilled(args) if args.method == "distill" else clustered(args)


def distilled(args: flags.argparse.Namespace) -> int:
    """--method distill."""
    _, shards = find_shards("--input", args.input)
    folder = fetch_folder("--encoder", args.encoder, "a WavLM", hub=True)
    config, weights = flags.read_encoder(args.encoder, args.layer)
    if isinstance(config, MFCCConfig) or config.layer >= config.num_hidden_layers:
        raise UsageError(
            "--encoder",
            args.encoder,
            f"there is no layer above --layer {args.layer} to teach from",
            "give a WavLM, and a lower layer",
        )
    if args.causal:
        try:
            causal_form(config)
        except EncoderError as error:
            raise UsageError(
                "--encoder", args.encoder, str(error), "give one of wavlm-large's shape"
            ) from error
    bits = args.codebook_size.bit_length() - 1
    if args.quantizer == "bsq" and 1 << bits != args.codebook_size:
        raise UsageError(
            "--codebook-size",
            args.codebook_size,
            "binary codes come in powers of two",
            f"give {1 << bits} or {2 << bits}",
        )
    hidden = tuple(args.hidden or [config.hidden_size] * 2)
    latent = bits if args.quantizer == "bsq" else args.latent
    device, _ = flags.device_and_precision(args)
    settings = DistillSettings(
        args.codebook_size,
        args.quantizer,
        FocalConfig(config.hidden_size, latent, hidden, (1,) * len(hidden), causal=args.causal),
        LossWeights(*args.loss_weights),
        args.warm_up_steps,
        args.steps,
        args.rows,
        round(args.row_seconds * FRAMES_PER_SECOND),
        args.max_frames or FRAMES_PER_CODE * args.codebook_size,
        args.learning_rate,
        args.seed,
        args.encoder_steps if args.causal else None,
    )
    readers = 4 * (device == "cuda")
    training = TrainingSettings(
        args.steps, args.learning_rate, args.precision, device, args.checkpoint_minutes, readers
    )
    output = Folder("--output", args.output)
    output.check_free("config.json")
    made_by = {"method": "distill", "encoder": args.encoder, "seed": args.seed}
    metric = "cosine" if args.quantizer == "bsq" else "l2"
    files = TokenizerFiles(config, metric, {f"encoder.{k}": v for k, v in weights.items()}, made_by)
    try:
        last = distill(shards, output, folder, files, settings, training, args.workers)
    except TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in last.items()))
    print(
        f"written to {args.output}: tokenizer {flags.read_tokenizer(args.output).fingerprint[:12]}"
    )
    return 0


def clustered(args: flags.argparse.Namespace) -> int:
    """--method kmeans."""
    cut = flags.tokenize_settings(args)
    settings = KmeansSettings(
        args.codebook_size,
        args.metric,
        args.max_frames or FRAMES_PER_CODE * args.codebook_size,
        args.iterations,
        args.seed,
        args.center,
    )
    if settings.max_frames < settings.codebook_size:
        raise UsageError(
            "--max-frames",
            settings.max_frames,
            f"{settings.codebook_size} codes need as many frames",
            "raise it or lower --codebook-size",
        )
    _, shards = find_shards("--input", args.input)
    config, weights = flags.read_encoder(args.encoder, args.layer)
    output = Folder("--output", args.output)
    output.check_free("config.json")
    made_by = {
        "method": args.method,
        "encoder": args.encoder,
        "seed": args.seed,
        "iterations": args.iterations,
        "max_frames": settings.max_frames,
        "center": args.center,
        "precision": args.precision,
        "shards": len(shards),
    }
    files = TokenizerFiles(
        config, args.metric, {f"encoder.{k}": v for k, v in weights.items()}, made_by
    )
    done = train_tokenizer(
        shards,
        output,
        files,
        settings,
        cut.windowing(config.normalize),
        cut.batching(),
        flags.encoder_settings(args),
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
