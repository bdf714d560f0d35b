"""--method distill of jobs/train_tokenizer.py: its flags, and one call into the pipeline."""

import sys

from jobs.cli import flags
from pipeline.shards.inputs import find_shards
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.config import EncoderError, FocalConfig, MFCCConfig
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.loop import TrainingFailed, TrainingSettings

# FAISS's own bound: more latents a code than this change its centroid little.
LATENTS_PER_CODE = 256
# Tokens a second → how many frames the compressor's blocks make one, from the first block on.
FACTORS = {"50": (), "25": (2,), "12.5": (2, 2)}


def add_flags(parser: flags.argparse.ArgumentParser) -> list[str]:
    """Add its flags to a parser; returns their names."""
    own = parser.add_argument_group("with --method distill")
    own.add_argument(
        "--rate",
        choices=FACTORS,
        default="50",
        help="tokens a second (default: %(default)s)",
    )
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
        help="width of each block of the compressor (default: three; as wide as the features, half "
        "and a quarter of it, as FocalCodec's)",
    )
    own.add_argument(
        "--latent",
        type=flags.positive,
        default=32,
        help="dimensions of a code; a binary one has one a bit (default: %(default)s)",
    )
    own.add_argument(
        "--loss-weights",
        type=flags.not_negative,
        nargs=4,
        default=[1, 1, 1, 0.25],
        metavar=("FEATURES", "TOP", "ALONE", "QUANTIZER"),
        help="of the features' error, the top layer's, the top layer's by each code alone, the "
        "quantizer's own (default: %(default)s)",
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
    return [flag for action in own._group_actions for flag in action.option_strings]


def run(args: flags.argparse.Namespace) -> int:
    """Train. Raises UsageError for what cannot be."""
    # Not above: they import transformers, for seconds that k-means and --help can do without.
    from pipeline.training.causal_encoder import causal_form
    from pipeline.training.distill import DistillSettings, check_speech, distill
    from tokenizer.codec.distillation import LossWeights

    _, shards = flags.named("--input", find_shards, args.input)
    folder = flags.named("--encoder", fetch_folder, args.encoder, "a WavLM", hub=True)
    config, weights = flags.encoder(args.encoder, args.layer)
    if isinstance(config, MFCCConfig) or config.layer >= config.num_hidden_layers:
        raise flags.unusable(
            "--encoder",
            args.encoder,
            f"there is no layer above --layer {args.layer} to teach from",
            "give a WavLM, and a lower layer",
        )
    if args.causal:
        try:
            causal_form(config)
        except EncoderError as error:
            raise flags.unusable(
                "--encoder", args.encoder, str(error), "give one of wavlm-large's shape"
            ) from error
    bits = args.codebook_size.bit_length() - 1
    if args.quantizer == "bsq" and 1 << bits != args.codebook_size:
        raise flags.unusable(
            "--codebook-size",
            args.codebook_size,
            "binary codes come in powers of two",
            f"give {1 << bits} or {2 << bits}",
        )
    hidden = tuple(args.hidden or [config.hidden_size >> halvings for halvings in range(3)])
    factors = FACTORS[args.rate]
    if len(hidden) < len(factors):
        raise flags.unusable(
            "--hidden",
            " ".join(map(str, hidden)),
            f"--rate {args.rate} halves the frames {len(factors)} times, once in a block",
            f"give {len(factors)} widths or more",
        )
    factors += (1,) * (len(hidden) - len(factors))
    latent = bits if args.quantizer == "bsq" else args.latent
    device, _ = flags.device_and_precision(args)
    focal = FocalConfig(
        width=config.hidden_size, latent=latent, hidden=hidden, factors=factors, causal=args.causal
    )
    tokens = round(args.row_seconds * FRAMES_PER_SECOND / focal.frames_per_token)
    settings = DistillSettings(
        args.codebook_size,
        args.quantizer,
        focal,
        LossWeights(*args.loss_weights),
        args.warm_up_steps,
        args.steps,
        args.rows,
        tokens * focal.frames_per_token,
        args.max_frames or LATENTS_PER_CODE * args.codebook_size,
        args.learning_rate,
        args.seed,
        args.encoder_steps if args.causal else None,
    )
    readers = 4 * (device == "cuda")
    training = TrainingSettings(
        steps=args.steps,
        learning_rate=args.learning_rate,
        precision=args.precision,
        device=device,
        checkpoint_minutes=args.checkpoint_minutes,
        workers=readers,
    )
    output = flags.named("--output", Folder, args.output)
    output.check_free("config.json")
    check_speech(
        shards, args.codebook_size if args.quantizer == "codebook" else 1, focal.frames_per_token
    )
    made_by = {"method": "distill", "encoder": args.encoder, "seed": args.seed}
    metric = "cosine" if args.quantizer == "bsq" else "l2"
    files = TokenizerFiles(
        config, metric, weights={f"encoder.{k}": v for k, v in weights.items()}, made_by=made_by
    )
    try:
        last = distill(
            shards,
            output,
            encoder=folder,
            files=files,
            settings=settings,
            training=training,
            workers=args.workers,
        )
    except TrainingFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in last.items()))
    print(
        f"written to {args.output}: tokenizer {flags.read_tokenizer(args.output).fingerprint[:12]}"
    )
    return 0
