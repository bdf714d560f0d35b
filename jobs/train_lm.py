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

from jobs.cli import flags
from jobs.cli.lm_flags import add_places, add_shape, add_training, model_config, training_settings
from lm.config import LMError
from lm.training.data import TokenShards
from lm.training.trainer import Run, build_model, train_in_process
from pipeline.cluster.connect import connect
from pipeline.cluster.progress import Reporter
from pipeline.training.launch import run_in_processes
from tokenizer.storage.fetch import fetch_folder
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.training.loop import TrainingFailed


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


def open_tokens(
    flag: str, url: str, files: TokenizerFiles | None, held_out: float = 0.0
) -> tuple[TokenShards, TokenShards]:
    """What to learn from and what is held out. Raises UsageError when it is none of `files`."""
    with flags.naming(flag):
        tokens, rest = TokenShards.open(url, held_out)
        source = "--tokenizer" if files else None
        tokens.folder.check_tokenizer(files.fingerprint if files else None, source)
    return tokens, rest


def starting_encoder(args: flags.argparse.Namespace, files) -> Path | None:
    """The WavLM to start from, as a local folder; None starts from scratch."""
    start = args.start or ("wavlm" if args.encoder else "scratch")
    if start == "scratch":
        return None
    if not args.encoder or not files:
        raise flags.unusable("--start", "wavlm", "it needs --encoder and --tokenizer", "give both")
    return flags.named("--encoder", fetch_folder, args.encoder, "a WavLM", hub=True)


def threads_of_each(workers: int) -> int:
    """All cores, shared; Ray would give one to each process. OMP_NUM_THREADS goes before."""
    return int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, (os.cpu_count() or 1) // workers)


def main() -> int:
    """Flags in, one call of Ray Train, a summary out."""
    args = parse()
    files = flags.read_tokenizer(args.tokenizer) if args.tokenizer else None
    train, valid = open_tokens(
        "--input", args.input, files=files, held_out=0.0 if args.valid else args.held_out
    )
    if args.valid:
        valid, _ = open_tokens("--valid", args.valid, files)
        if valid.codebook_size != train.codebook_size:
            problem = f"it has {valid.codebook_size} codes, --input {train.codebook_size}"
            raise flags.unusable("--valid", args.valid, problem, "give tokens of one codebook")
    device, precision = flags.device_and_precision(args)
    settings = training_settings(args, precision)
    encoder = starting_encoder(args, files)
    try:
        config = model_config(args, files, train.codebook_size)
        settings.batching(config.chunk)
        model = build_model(config, files, encoder=encoder, seed=args.seed)
    except LMError as error:
        problem, remedy = str(error), "see --help for the flags of its shape and of the batches"
        raise flags.unusable("--preset", args.preset, problem, remedy) from error
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
        connect()
        on_gpu = device == "cuda"

        def make_run(board) -> Run:
            return Run(
                config=config,
                settings=settings,
                train=train,
                valid=valid if valid.num_tokens else None,
                tokenizer=files,
                encoder=encoder,
                output=output,
                show=Reporter(board),
                device=device,
                checkpoint_minutes=args.checkpoint_minutes,
                keep=args.keep,
                log_every=args.log_every,
                compile=args.compile,
                readers=1 if on_gpu else 0,
                threads=None if on_gpu else threads_of_each(args.workers),
            )

        try:
            run_in_processes(
                "lm", train_in_process, make_run=make_run, device=device, workers=args.workers
            )
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
