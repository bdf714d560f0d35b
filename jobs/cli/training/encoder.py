"""What jobs/train_encoder.py does: reads what the flags name, trains, says where the encoder is."""

import argparse
from pathlib import Path
from typing import Any

from transformers import WavLMConfig

from jobs.cli import flags
from jobs.cli.figures import failed_problems, print_problems
from jobs.cli.training.encoder_flags import HEARD_WEIGHTS, SHAPE
from jobs.cli.training.vocoder import READERS_OF_A_GPU
from pipeline.cluster.progress import TrainingLine
from pipeline.settings import CropSettings, Recipe, Round
from pipeline.shards.inputs import find_shards
from pipeline.training.train_encoder import EncoderTraining, check_output
from tokenizer.audio.frames import FRAMES_PER_SECOND
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder
from tokenizer.training.settings import RuntimeSettings


def train(args: argparse.Namespace) -> int:
    """Train all rounds, and say where the encoder is."""
    started, config = start_and_shape(args)
    recipe = make_recipe(args, config.num_hidden_layers)
    _, shards = flags.named("--input", find_shards, args.input)
    noises = flags.named("--noise", find_shards, args.noise)[1] if args.noise else []
    device, _ = flags.device_and_precision(args)
    output = flags.named("--output", Folder, args.output)
    check_output(output, config, recipe=recipe, shards=shards)
    default_readers = READERS_OF_A_GPU if device == "cuda" else 0
    line = TrainingLine()
    try:
        failed = EncoderTraining(
            shards=shards,
            noises=noises,
            output=output,
            config=config,
            recipe=recipe,
            runtime=RuntimeSettings(
                device=device,
                checkpoint_minutes=args.checkpoint_minutes,
                readers=default_readers if args.readers is None else args.readers,
            ),
            encoding=flags.encoder_settings(args),
            show=line,
            start=started,
        ).run()
    finally:
        line.close()
    if status := print_problems(failed_problems(failed, "shard")):
        return status
    print(f"written to {args.output}: encoder/, and log.jsonl of each round")
    return 0


def make_recipe(args: argparse.Namespace, layers: int) -> Recipe:
    """The recipe that the flags give. layers: of the encoder."""
    rounds = label_rounds(args, layers)
    frames = round(args.row_seconds * FRAMES_PER_SECOND)
    if frames <= args.mask_span:
        raise flags.unusable(
            "--row-seconds",
            args.row_seconds,
            problem=f"a row of {frames} frames is no longer than a masked span of {args.mask_span}",
            remedy="make rows longer or --mask-span shorter",
        )
    return Recipe(
        spectrum_steps=args.spectrum_steps,
        rounds=tuple(rounds),
        crops=CropSettings(
            rows=args.rows,
            frames=frames,
            mask_share=args.mask_share,
            mask_span=args.mask_span,
            speed=args.speed,
            rooms=args.rooms,
            mixing=args.mixing,
            noise=args.noise_share,
            channels=args.channels,
        ),
        learning_rate=args.learning_rate,
        precision=flags.device_and_precision(args)[1],
        seed=args.seed,
        whiten=args.whiten,
        start=args.start,
        keep_layers=args.keep_layers,
    )


def start_and_shape(args: argparse.Namespace) -> tuple[Path | None, WavLMConfig]:
    """A local copy of --start, if it is given, and the shape of the encoder.

    Raises UsageError if there is no such encoder, if it cannot be trained, if a flag gives it
    another shape, or if --whiten or --keep-layers ask for more than it has.
    """
    if args.start:
        for name in SHAPE:
            if getattr(args, name) is not None:
                raise flags.unusable(
                    "--" + name.replace("_", "-"),
                    getattr(args, name),
                    problem="an existing encoder keeps its shape",
                    remedy="leave it out, or --start",
                )
    started = (
        flags.named("--start", fetch_folder, args.start, "a WavLM", hub=True)
        if args.start
        else None
    )
    config = _shape_of(started, args.start) if started else _new_shape(args)
    if args.keep_layers and not started:
        raise flags.unusable(
            "--keep-layers",
            args.keep_layers,
            problem="there is no --start",
            remedy="give one, or leave it out",
        )
    for flag, value, most in (
        ("--whiten", args.whiten, config.hidden_size),
        ("--keep-layers", args.keep_layers, config.num_hidden_layers - 1),
    ):
        if value > most:
            raise flags.unusable(
                flag, value, problem=f"{most} is the most this encoder has", remedy="lower it"
            )
    return started, config


def _new_shape(args: argparse.Namespace) -> WavLMConfig:
    """wavlm-large's structure with the flags' widths. Raises UsageError for an impossible one."""
    given = {name: getattr(args, name) for name in SHAPE}
    shape: dict[str, Any] = SHAPE | {
        name: value for name, value in given.items() if value is not None
    }
    width, heads = shape["width"], shape["heads"]
    if width % heads or width % 16:
        raise flags.unusable(
            "--width",
            width,
            problem=f"it is not a multiple of --heads {heads} and of the position embedding's 16 "
            "groups",
            remedy="give a multiple of both",
        )
    return WavLMConfig(
        hidden_size=width,
        num_hidden_layers=shape["layers"],
        num_attention_heads=heads,
        intermediate_size=4 * width,
        conv_dim=shape["conv_widths"],
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )


def _shape_of(folder: Path, name: str) -> WavLMConfig:
    """The shape of the encoder to start from. Raises UsageError if it cannot be trained."""
    config = WavLMConfig.from_pretrained(folder)
    if config.feat_extract_norm != "layer" or not config.do_stable_layer_norm:
        raise flags.unusable(
            "--start",
            name,
            problem="only the structure of wavlm-large can be trained",
            remedy="give one with layer norms",
        )
    return config


def label_rounds(args: argparse.Namespace, layers: int) -> list[Round]:
    """The rounds. Raises UsageError unless their flags have a value for each."""
    count = len(args.steps)
    first, later = HEARD_WEIGHTS
    heard = args.heard_weights or [later if args.start else first] + [later] * (count - 1)
    for flag, values, needed in (
        ("--codes", args.codes, count),
        ("--heard-weights", heard, count),
        ("--label-layers", args.label_layers, count - (not args.start)),
    ):
        if len(values) != needed:
            raise flags.unusable(
                flag,
                " ".join(map(str, values)),
                problem=f"--steps asks for {count} rounds",
                remedy=f"give {needed} values",
            )
    if args.label_layers and max(args.label_layers) > layers:
        raise flags.unusable(
            "--label-layers",
            " ".join(map(str, args.label_layers)),
            problem=f"the encoder has {layers} layers",
            remedy="give lower ones",
        )
    labelled = args.label_layers if args.start else [None, *args.label_layers]
    return [
        Round(steps=steps, codes=codes, layer=layer, heard_weight=weight)
        for steps, codes, layer, weight in zip(args.steps, args.codes, labelled, heard)
    ]
