"""Train a speech language model on token shards. Writes OUTPUT/model.

Of shards that jobs/tokenize.py made, give the same --tokenizer; of imported ones, none. Goes on
after a kill when the same command is run again, as if it had not been killed, and logs to
OUTPUT/training: log.jsonl, and events for TensorBoard. Exit status: 0 done; 1 the loss is no number
any more, or a shard cannot be read; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import json
import os
from dataclasses import asdict

from jobs import flags
from lm.config import INPUTS, PRESETS, LMConfig, LMError
from lm.data import TokenShards
from lm.trainer import Run, TrainingSettings, build_model, train_in_process
from pipeline.cluster import connect
from pipeline.errors import UsageError
from pipeline.ray_train import run_in_processes
from pipeline.storage import Folder, fetch_folder, filesystem
from pipeline.training_loop import TrainingFailed
from pipeline.training_progress import Reporter
from tokenizer.files import TokenizerFiles


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/train_lm.py --input out/tokens --tokenizer wavlm-tiny-km256 --preset tiny "
        "--steps 200 --output out/lm",
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="URL",
        help="an OUTPUT of jobs/tokenize.py or jobs/import_tokens.py",
    )
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the model")
    parser.add_argument(
        "--tokenizer",
        metavar="URL",
        help="that made the tokens: one that ships, a folder or a URL; none for imported tokens",
    )
    parser.add_argument(
        "--valid",
        metavar="URL",
        help="another such OUTPUT to validate on (default: a share of --input's utterances)",
    )
    parser.add_argument(
        "--held-out",
        type=flags.rate,
        default=0.01,
        help="that share, if there is no --valid (default: %(default)s)",
    )
    add_shape(parser.add_argument_group("its shape"))
    add_training(parser.add_argument_group("how it learns"))
    add_places(parser.add_argument_group("where it runs"))
    return parser.parse_args()


def add_shape(shape) -> None:
    """The flags of LMConfig, and where weights start."""
    shape.add_argument(
        "--preset",
        choices=PRESETS,
        default="tiny",
        help="layers: 4 of 256, 6 of 768, 18 of 1024 (default: %(default)s)",
    )
    for name in ("width", "layers", "heads", "feed-forward"):
        shape.add_argument(f"--{name}", type=flags.positive, help="in place of the preset's")
    shape.add_argument(
        "--chunk",
        type=flags.positive,
        default=4,
        help="tokens predicted at once; 1 is plain next-token (default: %(default)s)",
    )
    shape.add_argument(
        "--window", type=flags.positive, default=512, help="past tokens seen (default: %(default)s)"
    )
    shape.add_argument(
        "--inputs",
        choices=INPUTS,
        help="a token's vector: what the tokenizer's codes are (default), what its causal "
        "decompressor makes of them, or learned (default without --tokenizer)",
    )
    shape.add_argument(
        "--start",
        choices=("wavlm", "scratch"),
        help="wavlm: from the layers of --encoder above the tokenizer's (default if it is given)",
    )
    shape.add_argument("--encoder", metavar="URL", help="the WavLM: folder, URL or hub id")


def add_training(how) -> None:
    """The flags of TrainingSettings."""
    whole, number = flags.positive, flags.positive_number
    how.add_argument("--steps", type=whole, default=20_000, help="default: %(default)s")
    how.add_argument(
        "--rows",
        type=whole,
        default=16,
        help="rows in a batch, over all processes (default: %(default)s)",
    )
    how.add_argument(
        "--row-tokens", type=whole, default=512, help="length of one (default: %(default)s)"
    )
    how.add_argument(
        "--accumulate",
        type=whole,
        default=1,
        help="parts of a batch, one after another, to save memory (default: 1)",
    )
    how.add_argument("--learning-rate", type=number, default=1e-3, help="default: %(default)g")
    how.add_argument(
        "--warm-up", type=flags.rate, default=0.03, help="share of the steps (default: %(default)s)"
    )
    how.add_argument(
        "--optimizer", choices=("adamw", "muon"), default="adamw", help="default: %(default)s"
    )
    how.add_argument(
        "--weight-decay", type=flags.not_negative, default=0.1, help="default: %(default)s"
    )
    how.add_argument("--clip-norm", type=number, default=1.0, help="default: %(default)s")
    how.add_argument("--dropout", type=flags.rate, default=0.0, help="default: none")
    how.add_argument(
        "--noise",
        type=flags.rate,
        default=0.0,
        help="share of the tokens that are replaced in what the model sees (default: none)",
    )
    how.add_argument(
        "--validate-every",
        type=flags.count,
        default=1000,
        metavar="STEPS",
        help="and at the end; 0: at the end alone (default: %(default)s)",
    )
    how.add_argument(
        "--keep-best",
        action="store_true",
        help="the model of the best validation instead of the last step's",
    )
    how.add_argument("--seed", type=flags.count, default=0, help="of all draws (default: 0)")


def add_places(where) -> None:
    """Device, processes, checkpoints."""
    where.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 where it is fast (default: %(default)s)",
    )
    where.add_argument(
        "--workers", type=flags.positive, default=1, help="processes, one a GPU (default: 1)"
    )
    where.add_argument("--compile", action="store_true", help="torch.compile the model")
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=5, help="default: %(default)g"
    )
    where.add_argument(
        "--keep", type=flags.positive, default=3, help="newest checkpoints (default: %(default)s)"
    )
    where.add_argument(
        "--log-every", type=flags.positive, default=20, metavar="STEPS", help="default: %(default)s"
    )


def open_tokens(
    flag: str, url: str, files: TokenizerFiles | None, held_out: float = 0.0
) -> tuple[TokenShards, TokenShards]:
    """What to learn from and what is held out. Raises UsageError when it is none of `files`."""
    filesystem(flag, url)
    try:
        tokens, rest = TokenShards.open(url, held_out)
    except LMError as error:
        remedy = "give an OUTPUT of jobs/tokenize.py or jobs/import_tokens.py"
        raise UsageError(flag, url, str(error), remedy) from error
    if files is None and tokens.tokenizer:
        problem = f"tokenizer {tokens.tokenizer[:12]} made it"
        raise UsageError(flag, url, problem, "give that tokenizer with --tokenizer")
    if files and tokens.tokenizer != files.fingerprint:
        who = f"tokenizer {tokens.tokenizer[:12]}" if tokens.tokenizer else "no tokenizer"
        problem = f"{who} made it, not --tokenizer's {files.fingerprint[:12]}"
        raise UsageError(flag, url, problem, "give the one that did")
    return tokens, rest


def model_config(args: flags.argparse.Namespace, files, codebook_size: int) -> LMConfig:
    """The preset's shape, with what flags replace of it."""
    shape = dict(PRESETS[args.preset])
    shape |= {name: value for name in shape if (value := getattr(args, name))}
    inputs = args.inputs or ("codes" if files else "embedding")
    if inputs != "embedding" and not files:
        raise UsageError("--inputs", inputs, "there is no --tokenizer", "give one or leave it out")
    return LMConfig(
        codebook_size,
        **shape,
        chunk=args.chunk,
        window=args.window,
        inputs=inputs,
        dropout=args.dropout,
    )


def starting_encoder(args: flags.argparse.Namespace, files) -> Path | None:
    """The WavLM to start from, as a local folder; None starts from scratch."""
    start = args.start or ("wavlm" if args.encoder else "scratch")
    if start == "scratch":
        return None
    if not args.encoder or not files:
        raise UsageError("--start", "wavlm", "it needs --encoder and --tokenizer", "give both")
    return fetch_folder("--encoder", args.encoder, "a WavLM", hub=True)


def main() -> int:
    """Flags in, one call of Ray Train, a summary out."""
    args = parse()
    files = flags.read_tokenizer(args.tokenizer) if args.tokenizer else None
    train, valid = open_tokens("--input", args.input, files, 0.0 if args.valid else args.held_out)
    if args.valid:
        valid, _ = open_tokens("--valid", args.valid, files)
        if valid.codebook_size != train.codebook_size:
            problem = f"it has {valid.codebook_size} codes, --input {train.codebook_size}"
            raise UsageError("--valid", args.valid, problem, "give tokens of one codebook")
    device, precision = flags.device_and_precision(args)
    names = ("steps", "rows", "row_tokens", "accumulate", "workers", "learning_rate", "warm_up")
    names += ("weight_decay", "clip_norm", "noise", "optimizer", "validate_every", "keep_best")
    settings = TrainingSettings(
        **{name: getattr(args, name) for name in names}, precision=precision, seed=args.seed
    )
    encoder = starting_encoder(args, files)
    try:
        config = model_config(args, files, train.codebook_size)
        settings.batching(config.chunk)
        model = build_model(config, files, encoder, args.seed)
    except LMError as error:
        problem, remedy = str(error), "see --help for the flags of its shape and of the batches"
        raise UsageError("--preset", args.preset, problem, remedy) from error
    output = Folder("--output", args.output)
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
        connect()
        threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or max(
            1, (os.cpu_count() or 1) // args.workers
        )

        def make_run(board) -> Run:
            return Run(
                config,
                settings,
                train,
                valid if valid.num_tokens else None,
                files,
                encoder,
                output,
                Reporter(board),
                device,
                args.checkpoint_minutes,
                args.keep,
                args.log_every,
                args.compile,
                readers=1 if device == "cuda" else 0,
                threads=threads if device == "cpu" else None,
            )

        try:
            run_in_processes("lm", train_in_process, make_run, device, args.workers)
        except TrainingFailed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print_summary(output, args.output)
    return 0


def print_summary(output: Folder, url: str) -> None:
    """What a person wants to know of a training."""
    lines = [json.loads(line) for line in output.read_text("training/log.jsonl").splitlines()]
    last = lines[-1]
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


if __name__ == "__main__":
    flags.run(main)
