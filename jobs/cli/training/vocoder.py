"""What jobs/train_vocoder.py does: reads what the flags name, trains, prints a summary."""

import argparse

from jobs.cli import flags
from pipeline.settings import VocoderSettings
from pipeline.shards.inputs import find_shards
from pipeline.training.train_vocoder import train_vocoder
from tokenizer.audio.frames import FRAMES_PER_SECOND, SAMPLE_RATE
from tokenizer.config import VocoderConfig
from tokenizer.storage.folder import Folder
from tokenizer.training.settings import RuntimeSettings

# In frames: the longest windows of the losses are a quarter of it.
SHORTEST_ROW = FRAMES_PER_SECOND // 2
READERS_OF_A_GPU = 4
# Of speech from a linear head, in Hz.
LINEAR_RATE, LOWEST_RATE, HIGHEST_RATE = 24_000, 8_000, 48_000


def train(args: argparse.Namespace) -> int:
    """Train, and print the last line of the log."""
    frames = round(args.row_seconds * FRAMES_PER_SECOND)
    if frames < SHORTEST_ROW:
        raise flags.unusable(
            "--row-seconds",
            args.row_seconds,
            problem="a row holds too little",
            remedy="give 0.5 or more",
        )
    shape = vocoder_shape(args)
    _, shards = flags.named("--input", find_shards, args.input)
    files = flags.read_tokenizer(args.tokenizer)
    device, precision = flags.device_and_precision(args)
    output = flags.named("--output", Folder, args.output)
    output.check_free("config.json")
    flags.warn_of_bf16(files, precision)
    last = train_vocoder(
        shards,
        output,
        files=files,
        settings=VocoderSettings(
            vocoder=VocoderConfig(width=files.width, **shape),
            adversarial_weight=args.adversarial_weight,
            steps=args.steps,
            rows=args.rows,
            frames=frames,
            learning_rate=args.learning_rate,
            precision=precision,
            seed=args.seed,
            workers=args.workers,
        ),
        runtime=RuntimeSettings(
            device=device,
            checkpoint_minutes=args.checkpoint_minutes,
            readers=READERS_OF_A_GPU if device == "cuda" else 0,
        ),
    )
    print_line(last)
    print(f"written to {args.output}: tokenizer {files.fingerprint[:12]} with a vocoder")
    return 0


def vocoder_shape(args: argparse.Namespace) -> dict:
    """The fields of a VocoderConfig that flags decide."""
    shape = {
        "hidden": args.hidden,
        "layers": args.layers,
        "feed_forward": 3 * args.hidden,
        "causal": args.causal,
    }
    linear = args.head == "linear"
    rate = args.output_rate or (LINEAR_RATE if linear else SAMPLE_RATE)
    if not linear and rate != SAMPLE_RATE:
        raise flags.unusable(
            "--output-rate",
            rate,
            problem=f"an inverse STFT gives {SAMPLE_RATE} Hz",
            remedy="give --head linear for another rate",
        )
    if rate % FRAMES_PER_SECOND or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise flags.unusable(
            "--output-rate",
            rate,
            problem="a frame of 20 ms has no whole number of samples, or it is no rate of speech",
            remedy=f"give a multiple of {FRAMES_PER_SECOND} from {LOWEST_RATE} to {HIGHEST_RATE}",
        )
    if linear:
        # As WaveNeXt has them: whole frames, and samples that are only clipped.
        shape |= {"head": "linear", "margin": 0, "limiter": False}
        shape |= {"samples_per_frame": rate // FRAMES_PER_SECOND}
    return shape


def print_line(line: dict) -> None:
    """A line of a training's log, for a person."""
    shown = {name.replace("_", " "): value for name, value in line.items() if name != "time"}
    print(", ".join(f"{name} {value:g}" for name, value in shown.items()))
