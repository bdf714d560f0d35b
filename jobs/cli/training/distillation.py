"""--method distill of jobs/train_tokenizer.py: one call into the pipeline, and a summary."""

import argparse
from pathlib import Path

from jobs.cli import flags
from jobs.cli.training.tokenizer_flags import FACTORS, FRAMES_PER_CODE
from jobs.cli.training.vocoder import READERS_OF_A_GPU, print_line
from pipeline.settings import DistillSettings
from pipeline.shards.inputs import find_shards
from pipeline.training.causal_encoder import causal_form
from pipeline.training.distill import check_speech, distill
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.config import EncoderConfig, FocalConfig, LossWeights, MFCCConfig
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder, public_url
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.settings import RuntimeSettings

# What --loss-weights gives a weight to, in this order.
LOSSES = ("features", "top", "alone", "quantizer")


def train(args: argparse.Namespace) -> int:
    """Train, and print the last line of the log."""
    _, shards = flags.named("--input", find_shards, args.input)
    folder: Path = flags.named("--encoder", fetch_folder, args.encoder, "a WavLM", hub=True)
    config, weights = flags.encoder(args.encoder, args.layer)
    if isinstance(config, MFCCConfig) or config.layer >= config.num_hidden_layers:
        raise flags.unusable(
            "--encoder",
            args.encoder,
            problem=f"there is no layer above --layer {args.layer} to learn from",
            remedy="give a WavLM, and a lower layer",
        )
    if not config.position_bias:
        raise flags.unusable(
            "--encoder",
            args.encoder,
            problem="it is not a WavLM, the only kind that is distilled",
            remedy="give a WavLM, or use --method kmeans",
        )
    if args.replicate_padding and not args.causal:
        raise flags.unusable(
            "--replicate-padding",
            None,
            problem="it is of a causal tokenizer",
            remedy="give --causal too",
        )
    if args.causal:
        with flags.naming("--encoder", args.encoder, "give one of wavlm-large's shape"):
            causal_form(config, args.replicate_padding)
    focal = compressor_shape(args, config)
    device, _ = flags.device_and_precision(args)
    tokens = round(args.row_seconds * FRAMES_PER_SECOND / focal.frames_per_token)
    settings = DistillSettings(
        codebook_size=args.codebook_size,
        quantizer=args.quantizer,
        focal=focal,
        weights=LossWeights(**dict(zip(LOSSES, args.loss_weights))),
        warm_up=args.warm_up_steps,
        steps=args.steps,
        rows=args.rows,
        frames=tokens * focal.frames_per_token,
        kmeans_frames=args.max_frames or FRAMES_PER_CODE * args.codebook_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
        encoder_steps=args.encoder_steps if args.causal else None,
        replicate_padding=args.replicate_padding,
        raw_input=args.raw_input and not args.causal,
    )
    output = flags.named("--output", Folder, args.output)
    output.check_free("config.json")
    least_tokens = args.codebook_size if args.quantizer == "codebook" else 1
    check_speech(shards, least_tokens, focal.frames_per_token)
    files = TokenizerFiles(
        config,
        "cosine" if args.quantizer == "bsq" else "l2",
        weights={f"encoder.{k}": v for k, v in weights.items()},
        made_by={"method": "distill", "encoder": public_url(args.encoder), "seed": args.seed},
    )
    last = distill(
        shards,
        output,
        encoder=folder,
        files=files,
        settings=settings,
        precision=args.precision,
        workers=args.workers,
        runtime=RuntimeSettings(
            device=device,
            checkpoint_minutes=args.checkpoint_minutes,
            readers=READERS_OF_A_GPU if device == "cuda" else 0,
        ),
    )
    print_line(last)
    print(
        f"written to {args.output}: tokenizer {flags.read_tokenizer(args.output).fingerprint[:12]}"
    )
    return 0


def compressor_shape(args: argparse.Namespace, config: EncoderConfig) -> FocalConfig:
    """The compressor's shape. Raises UsageError for codes or a rate that it cannot give."""
    bits = args.codebook_size.bit_length() - 1
    if args.quantizer == "bsq" and 1 << bits != args.codebook_size:
        raise flags.unusable(
            "--codebook-size",
            args.codebook_size,
            problem="the number of binary codes is a power of two",
            remedy=f"give {1 << bits} or {2 << bits}",
        )
    hidden = tuple(args.hidden or [config.hidden_size >> halvings for halvings in range(3)])
    factors = FACTORS[args.rate]
    if len(hidden) < len(factors):
        raise flags.unusable(
            "--hidden",
            " ".join(map(str, hidden)),
            problem=f"--rate {args.rate} halves the frames {len(factors)} times, once in a block",
            remedy=f"give {len(factors)} widths or more",
        )
    return FocalConfig(
        width=config.hidden_size,
        latent=bits if args.quantizer == "bsq" else args.latent,
        hidden=hidden,
        factors=factors + (1,) * (len(hidden) - len(factors)),
        causal=args.causal,
    )
