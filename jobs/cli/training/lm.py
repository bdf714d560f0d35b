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
from lm.config import PRESETS, LMConfig
from lm.training.data import TokenShards
from lm.training.rows import RowLayout
from lm.training.settings import LMTrainingSettings
from lm.training.trainer import LMRun, build_model, train_in_process
from pipeline.cluster.connect import connect
from pipeline.cluster.progress import Reporter
from pipeline.training.launch import run_in_processes
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.settings import RuntimeSettings


def train_lm(args: argparse.Namespace) -> int:
    """Train unless OUTPUT/model is there, and print a summary."""
    files = flags.read_tokenizer(args.tokenizer) if args.tokenizer else None
    train, valid = open_token_shards(args, files)
    device, precision = flags.device_and_precision(args)
    settings = training_settings(args, precision)
    encoder = initial_encoder(args, files)
    remedy = "see --help for the flags of its shape and of the batches"
    with flags.naming("--preset", args.preset, remedy):
        config = model_config(args, files, train.codebook_size)
        RowLayout.of(settings, config.chunk)
        model = build_model(config, files, encoder=encoder, seed=args.seed)
    output = flags.named("--output", Folder, args.output)
    record = {
        "model": model.config.to_dict(),
        "settings": asdict(settings),
        "start": str(args.encoder) if encoder else "scratch",
        "tokens": {"shards": [shard.name for shard in train.shards], "tokens": train.num_tokens},
        "valid": {"tokens": valid.num_tokens, "given": bool(args.valid)},
    }
    output.claim_run("training/run.json", record)
    if output.read_text("model/config.json") is None:
        print(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {train.num_tokens:,} "
            f"tokens of {train.num_utterances:,} utterances, {valid.num_tokens:,} to validate on",
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
                valid=valid if valid.num_tokens else None,
                tokenizer=files,
                encoder=encoder,
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


def open_token_shards(
    args: argparse.Namespace, files: TokenizerFiles | None
) -> tuple[TokenShards, TokenShards]:
    """(to train on, to validate on), as --input, --valid and --held-out say."""
    train, valid = _open("--input", args.input, files, held_out=0 if args.valid else args.held_out)
    if args.valid:
        valid, _ = _open("--valid", args.valid, files)
        if valid.codebook_size != train.codebook_size:
            problem = f"it has {valid.codebook_size} codes, --input {train.codebook_size}"
            raise flags.unusable(
                "--valid", args.valid, problem=problem, remedy="give tokens of one codebook"
            )
    return train, valid


def _open(
    flag: str, url: str, files: TokenizerFiles | None, *, held_out: float = 0.0
) -> tuple[TokenShards, TokenShards]:
    """What is not held out, and what is. Raises UsageError if `files` did not make these tokens."""
    with flags.naming(flag):
        tokens, rest = TokenShards.open(url, held_out)
        source = "--tokenizer" if files else None
        tokens.folder.check_tokenizer(files.fingerprint if files else None, source)
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
