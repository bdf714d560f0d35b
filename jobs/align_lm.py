"""Tune a language model on preferences: how prompts should go on rather than how they should not.

By direct preference optimisation (arXiv 2305.18290), on triples of tokens: prompt, chosen and
rejected. They are read from --triples, JSON lines of {"key", "prompt", "chosen", "rejected"}; or
--make-triples makes them of token shards, chosen being how an utterance really goes on and rejected
how the model itself makes its beginning go on. Writes OUTPUT/model, OUTPUT/training with log.jsonl,
and the triples it made. Goes on after a kill when the same command is run again. Exit status: 0
done; 1 the loss is no number any more; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import hashlib
import tempfile
from dataclasses import asdict
from itertools import islice

from jobs.cli import flags
from jobs.cli.figures import show
from lm.config import LMError
from lm.evaluation.judge import open_tokens, read_utterances
from lm.generation import Generator, Sampling
from lm.model import SpeechLM
from lm.training.preference import Alignment, PreferenceSettings, split
from lm.training.triples import Triple, TripleSettings, make_triples, read_triples, write_triples
from pipeline.cluster.progress import TrainingLine, bar
from tokenizer.errors import one_line
from tokenizer.storage.folder import Folder, filesystem

TRIPLES = "triples.jsonl.gz"
MEANINGS = {
    "likelier": "share whose chosen has the fewer bits per token",
    "reward_accuracy": "share whose chosen gained the more by tuning; a tie counts half",
    "reward_margin": "beta x (nats that the chosen gained - nats that the rejected gained)",
    "chosen_bits": "per token of the chosen, given the prompt",
    "rejected_bits": "per token of the rejected",
}


def parse() -> flags.argparse.Namespace:
    """The command line."""
    own, making = PreferenceSettings(steps=500, rows=8, learning_rate=2e-5), TripleSettings()
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/align_lm.py --lm out/lm/model --make-triples out/tokens --steps 50 "
        "--output out/aligned",
    )
    parser.add_argument(
        "--lm", required=True, metavar="URL", help="the model/ that jobs/train_lm.py wrote"
    )
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--triples", nargs="+", metavar="URL", help="JSON lines, gzipped or not")
    source.add_argument(
        "--make-triples",
        metavar="URL",
        help=f"an OUTPUT of jobs/tokenize.py to make OUTPUT/{TRIPLES} of",
    )
    parser.add_argument(
        "--held-out",
        type=flags.rate,
        default=0.1,
        help="share of the triples to measure on (default: %(default)s)",
    )
    made = parser.add_argument_group("how triples are made")
    for name, what in (
        ("prompt-tokens", "of an utterance's beginning"),
        ("continuation-tokens", "at most, of what follows"),
    ):
        default = getattr(making, name.replace("-", "_"))
        made.add_argument(
            f"--{name}",
            type=flags.positive,
            default=default,
            help=f"{what} (default: %(default)s)",
        )
    made.add_argument(
        "--most-triples", type=flags.positive, default=making.most, help="default: %(default)s"
    )
    made.add_argument(
        "--temperature", type=flags.not_negative, default=1.0, help="default: %(default)g"
    )
    made.add_argument("--top-k", type=flags.positive, help="default: all")
    made.add_argument("--top-p", type=flags.rate, help="default: all")
    how = parser.add_argument_group("how it learns")
    how.add_argument(
        "--steps",
        type=flags.count,
        default=own.steps,
        help="batches; 0: make triples, and no model (default: %(default)s)",
    )
    how.add_argument(
        "--rows",
        type=flags.positive,
        default=own.rows,
        help="triples in one (default: %(default)s)",
    )
    how.add_argument(
        "--learning-rate",
        type=flags.positive_number,
        default=own.learning_rate,
        help="default: %(default)g",
    )
    how.add_argument(
        "--beta",
        type=flags.positive_number,
        default=own.beta,
        help="the lower, the further from the model before tuning (default: %(default)g)",
    )
    how.add_argument(
        "--per-token",
        action="store_true",
        help="rewards of a continuation's mean token, so that its length counts for nothing; give "
        "a --beta some hundred times as high",
    )
    how.add_argument("--seed", type=flags.count, default=0, help="of all draws (default: 0)")
    where = parser.add_argument_group("where it runs: in this process")
    where.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    where.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="default: %(default)s"
    )
    where.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=5, help="default: %(default)g"
    )
    where.add_argument(
        "--log-every", type=flags.positive, default=10, metavar="STEPS", help="default: %(default)s"
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, triples and a tuning, a summary out."""
    args = parse()
    device, precision = flags.device_and_precision(args)
    model, files = flags.read_model(args.lm, device, "fp32")
    settings = PreferenceSettings(
        steps=args.steps,
        rows=args.rows,
        learning_rate=args.learning_rate,
        beta=args.beta,
        per_token=args.per_token,
        precision=precision,
        seed=args.seed,
    )
    output = flags.named("--output", Folder, args.output)
    if args.make_triples:
        making = triple_settings(args)
        about = {"tokens": args.make_triples, **asdict(making)}
        claim(output, model, settings=settings, triples=about, args=args)
        triples = made_triples(args, model, making=making, output=output)
    else:
        triples = [own for url in args.triples for own in given_triples(url, model)]
        digest = hashlib.sha256(write_triples(triples, None)).hexdigest()
        claim(output, model, settings=settings, triples={"sha256": digest}, args=args)
    if not args.steps:
        print(f"{len(triples):,} triples; --steps 0: nothing is learnt")
        return 0
    learning, held_out = split(triples, args.held_out, args.seed)
    print(f"{len(learning):,} triples to learn from, {len(held_out):,} held out", file=sys.stderr)
    line = TrainingLine()
    try:
        tuning = Alignment(
            model,
            learning,
            held_out=held_out,
            settings=settings,
            output=output,
            show=line,
            checkpoint_minutes=args.checkpoint_minutes,
            log_every=args.log_every,
        )
        before, after = tuning.run(files, {"aligned_from": args.lm})
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except LMError as error:
        raise flags.unusable("--lm", args.lm, str(error), "train it again") from error
    finally:
        line.close()
    print(f"{'held-out triples':<20}{'before':>12}{'after':>12}")
    for name, value in after.items():
        meaning = MEANINGS[name]
        print(f"{name:<20}{show(before[name]):>12}{show(value):>12}  {meaning}")
    print(f"written to {args.output}/model")
    return 0


def claim(
    output: Folder, model: SpeechLM, settings: PreferenceSettings, triples: dict, args
) -> None:
    """Raises UsageError when the output is of other flags, or of another model."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().numpy().data)
    record = {
        "lm": digest.hexdigest(),
        "settings": asdict(settings),
        "triples": triples,
        "held_out": args.held_out,
    }
    output.claim_run("training/run.json", record)


def triple_settings(args: flags.argparse.Namespace) -> TripleSettings:
    """From the flags. Raises UsageError for a --top-p that leaves nothing."""
    try:
        sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    except LMError as error:
        raise flags.unusable("--top-p", args.top_p, str(error), "give more than 0") from error
    return TripleSettings(
        prompt_tokens=args.prompt_tokens,
        continuation_tokens=args.continuation_tokens,
        most=args.most_triples,
        seed=args.seed,
        sampling=sampling,
    )


def given_triples(url: str, model: SpeechLM, flag: str = "--triples") -> list[Triple]:
    """The triples of a file. Raises UsageError when it has none that this model can learn from."""
    fs, path = flags.named(flag, filesystem, url)
    try:
        data = fs.cat_file(path)
    except Exception as error:  # whatever a store raises, this file cannot be read
        raise flags.unusable(flag, url, one_line(error), "check the path") from error
    try:
        return read_triples(data, model.config.codebook_size, model.config.tokenizer)
    except LMError as error:
        remedy = 'a line is {"key": ..., "prompt": [1, 2], "chosen": [3], "rejected": [4]}'
        raise flags.unusable(flag, url, str(error), remedy) from error


def made_triples(
    args: flags.argparse.Namespace, model: SpeechLM, making: TripleSettings, output: Folder
) -> list[Triple]:
    """OUTPUT's triples, made unless they are there. Raises UsageError when none can be made."""
    if output.fs.exists(output.path(TRIPLES)):
        return given_triples(f"{args.output.rstrip('/')}/{TRIPLES}", model, "--output")
    tokens = flags.named("--make-triples", open_tokens, args.make_triples, model)
    if args.prompt_tokens > model.config.window:
        problem = f"the model looks back on {model.config.window}"
        raise flags.unusable(
            "--prompt-tokens", args.prompt_tokens, problem, "give no more than that"
        )
    utterances = read_utterances(tokens, model)
    # From all over the shards, not from the first alone.
    some = islice(utterances, 0, None, max(1, tokens.num_utterances // making.most))
    with flags.naming("--make-triples", args.make_triples), bar("made", "triples") as line:
        triples = list(make_triples(Generator(model), some, settings=making, show=line.update))
    if not triples:
        problem = f"no utterance has 4 tokens more than --prompt-tokens {making.prompt_tokens}"
        raise flags.unusable("--make-triples", args.make_triples, problem, "give a lower one")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / TRIPLES
        path.write_bytes(write_triples(triples, model.config.tokenizer))
        output.publish(path, TRIPLES)
    return triples


if __name__ == "__main__":
    flags.run(main)
