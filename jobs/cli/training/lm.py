"""What jobs/train_lm.py does: reads what the flags name, starts Ray Train, prints a summary."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle

from jobs.cli import flags
from jobs.cli.training.lm_start import read_start
from lm.config import PRESETS, LMConfig
from lm.training.data import TokenShards
from lm.training.rows import RowLayout
from lm.training.settings import LMTrainingSettings
from lm.training.trainer import LMRun, build_model, train_in_process
from pipeline.cluster.connect import connect
from pipeline.cluster.progress import Reporter
from pipeline.training.launch import run_in_processes
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder, public_url
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.settings import RuntimeSettings


def train_lm(args: argparse.Namespace) -> int:
    """Train unless OUTPUT/model is there, and print a summary."""
    start = read_start(args)
    if start:
        files, source = start.files, "--start"
    else:
        files = flags.read_tokenizer(args.tokenizer) if args.tokenizer else None
        source = "--tokenizer"
    train, valid = open_token_shards(args, files, source)
    device, precision = flags.device_and_precision(args)
    settings = training_settings(args, precision)
    encoder = initial_encoder(args, files)
    remedy = "see --help for the flags of its shape and of the batches"
    flag, shape = ("--start", args.start) if start else ("--preset", args.preset)
    with flags.naming(flag, shape, remedy):
        config = start.config if start else model_config(args, files, train.codebook_size)
        RowLayout.of(settings, config)
        folder = start.folder if start else None
        model = build_model(config, files, encoder=encoder, start=folder, seed=args.seed)
    left_out = check_tokens(args, train, config=config)
    output = flags.named("--output", Folder, args.output)
    record: dict[str, Any] = {
        "model": model.config.to_dict(),
        "settings": asdict(settings),
        "start": public_url(args.start or (str(args.encoder) if encoder else "scratch")),
        "tokens": {"shards": [shard.name for shard in train.shards], "tokens": train.num_tokens},
        "valid": {"tokens": valid.num_tokens, "given": bool(args.valid)},
    }
    if start:
        record["start_weights"] = start.digest
    if left_out:
        record["tokens"]["left_out_utterances"] = left_out
    output.claim_run("training/run.json", record)
    if output.read_text("model/config.json") is None:
        print(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {train.num_tokens:,} "
            f"tokens of {train.num_utterances:,} utterances, {valid.num_tokens:,} to validate on",
            file=sys.stderr,
        )
        if left_out:
            print(
                f"{left_out:,} utterances of up to {config.unscored_tokens} tokens are left out: "
                "without START the model predicts none of them",
                file=sys.stderr,
            )
        del model
        connect()
        on_gpu = device == "cuda"
        runtime = RuntimeSettings(
            device=device,
            checkpoint_minutes=args.checkpoint_minutes,
            keep=args.keep,
            log_every=args.log_every,
            readers=1 if on_gpu else 0,
        )

        def make_run(board: ActorHandle) -> LMRun:
            return LMRun(
                config=config,
                settings=settings,
                runtime=runtime,
                train=train,
                valid=valid if valid.num_predicted(config.unscored_tokens) else None,
                tokenizer=files,
                encoder=encoder,
                start=folder,
                output=output,
                show=Reporter(board),
                compile=args.compile,
                threads=None if on_gpu else threads_per_worker(args.workers),
            )

        run_in_processes(
            "lm", train_in_process, make_run=make_run, device=device, workers=args.workers
        )
    print_summary(output, args.output)
    return 0


def check_tokens(args: argparse.Namespace, train: TokenShards, config: LMConfig) -> int:
    """How many utterances are left out: those too short for a model without START.

    Raises UsageError unless the model has these tokens' codes and predicts some of them.
    """
    if train.codebook_size != config.codebook_size:
        problem = f"it has {train.codebook_size} codes, and the model {config.codebook_size}"
        raise flags.unusable(
            "--input", args.input, problem=problem, remedy="give tokens of the model's codebook"
        )
    unscored = config.unscored_tokens
    if not train.num_predicted(unscored):
        raise flags.unusable(
            "--input",
            args.input,
            problem=f"no utterance has more than {unscored} tokens, and the model, without START, "
            "predicts none of the first ones",
            remedy="give longer utterances",
        )
    return train.num_shorter(unscored)


def open_token_shards(
    args: argparse.Namespace, files: TokenizerFiles | None, source: str
) -> tuple[TokenShards, TokenShards]:
    """(to train on, to validate on), as --input, --valid and --held-out say.

    source: the flag that gave the tokenizer.
    """
    held_out = 0 if args.valid else args.held_out
    train, valid = _open("--input", args.input, files=files, source=source, held_out=held_out)
    if args.valid:
        valid, _ = _open("--valid", args.valid, files=files, source=source)
        if valid.codebook_size != train.codebook_size:
            problem = f"it has {valid.codebook_size} codes, --input {train.codebook_size}"
            raise flags.unusable(
                "--valid", args.valid, problem=problem, remedy="give tokens of one codebook"
            )
    return train, valid


def _open(
    flag: str, url: str, *, files: TokenizerFiles | None, source: str, held_out: float = 0.0
) -> tuple[TokenShards, TokenShards]:
    """What is not held out, and what is. Raises UsageError if `files` did not make these tokens."""
    with flags.naming(flag):
        tokens, rest = TokenShards.open(url, held_out)
        tokens.folder.check_tokenizer(
            files.fingerprint if files else None, source if files else None
        )
    return tokens, rest


def initial_encoder(args: argparse.Namespace, files: TokenizerFiles | None) -> Path | None:
    """The WavLM whose upper layers the model starts from, as a local folder, or None."""
    initialize = args.initialize or ("wavlm" if args.encoder else "scratch")
    if initialize == "scratch":
        return None
    if not args.encoder or not files:
        problem = "it needs --encoder and --tokenizer"
        raise flags.unusable("--initialize", "wavlm", problem=problem, remedy="give both")
    return flags.named("--encoder", fetch_folder, args.encoder, "a WavLM", hub=True)


def model_config(
    args: argparse.Namespace, files: TokenizerFiles | None, codebook_size: int
) -> LMConfig:
    """The preset's shape, with the values that flags give. Raises LMError for an impossible one."""
    shape: dict[str, Any] = dict(PRESETS[args.preset])
    shape |= {name: value for name in shape if (value := getattr(args, name))}
    inputs = args.inputs or ("codes" if files else "embedding")
    if inputs != "embedding" and not files:
        raise flags.unusable(
            "--inputs", inputs, problem="there is no --tokenizer", remedy="give one or leave it out"
        )
    return LMConfig(
        codebook_size=codebook_size,
        **shape,
        chunk=args.chunk,
        window=args.window,
        inputs=inputs,
        dropout=args.dropout,
        start=not args.no_start_chunk,
    )


def training_settings(args: argparse.Namespace, precision: str) -> LMTrainingSettings:
    """The settings that the flags give. precision: what "auto" stands for on this device."""
    return LMTrainingSettings(
        steps=args.steps,
        rows=args.rows,
        row_tokens=args.row_tokens,
        accumulate=args.accumulate,
        workers=args.workers,
        learning_rate=args.learning_rate,
        warm_up=args.warm_up,
        weight_decay=args.weight_decay,
        clip_norm=args.clip_norm,
        noise=args.token_noise,
        optimizer=args.optimizer,
        validate_every=args.validate_every,
        keep_best=args.keep_best,
        precision=precision,
        seed=args.seed,
    )


def threads_per_worker(workers: int) -> int:
    """An equal share of the cores: Ray would give each process one. OMP_NUM_THREADS overrides."""
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, (os.cpu_count() or 1) // workers)


def print_summary(output: Folder, url: str) -> None:
    """The result of a training."""
    text = output.read_text("training/log.jsonl") or ""
    last = json.loads(text.splitlines()[-1])
    print(
        f"{last['step']:,} steps, {last['tokens']:,} tokens in {last['hours']:.2f} h: "
        f"{last['bits_per_token']:.3f} bits per token in training"
    )
    if "valid_bits_per_token" in last:
        print(
            f"validation: {last['valid_bits_per_token']:.3f} bits per token, "
            f"at best {last['best_bits_per_token']:.3f}"
        )
    else:
        print("validation: nothing was held out; give --valid or a larger --held-out")
    print(f"written to {url}/model")
