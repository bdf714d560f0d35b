"""What jobs/align_lm.py does: reads or makes triples, tunes the model, prints figures."""

import argparse
import hashlib
import sys
from dataclasses import asdict
from itertools import islice

from jobs.cli import flags
from jobs.cli.figures import show
from jobs.cli.training.preference_flags import TRIPLES
from lm.evaluation.judge import open_tokens, read_utterances
from lm.generation import Generator, Sampling
from lm.model import SpeechLM
from lm.training.preference import PreferenceTuning, split
from lm.training.settings import PreferenceSettings, TripleSettings
from lm.training.triples import Triple, make_triples, read_triples, write_triples
from pipeline.cluster.progress import TrainingLine, bar
from tokenizer.errors import one_line
from tokenizer.storage.file_stream import read_whole
from tokenizer.storage.folder import Folder, filesystem, public_url
from tokenizer.storage.scratch import scratch_folder
from tokenizer.training.settings import RuntimeSettings

MEANINGS = {
    "likelier": "share whose chosen has fewer bits per token than the rejected",
    "reward_accuracy": "share whose chosen gained more by tuning; a tie counts half",
    "reward_margin": "beta x (nats that the chosen gained - nats that the rejected gained)",
    "chosen_bits": "per token of the chosen, given the prompt",
    "rejected_bits": "per token of the rejected",
}


def align_lm(args: argparse.Namespace) -> int:
    """Make or read triples, tune, and print the held-out triples' figures."""
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
    record = {
        "lm": model_digest(model),
        "settings": asdict(settings),
        "held_out": args.held_out,
    }
    if args.make_triples:
        making = triple_settings(args)
        about = {"tokens": public_url(args.make_triples), **asdict(making)}
        output.claim_run("training/run.json", {**record, "triples": about})
        triples = made_triples(args, model, making=making, output=output)
    else:
        triples = [triple for url in args.triples for triple in given_triples(url, model)]
        digest = hashlib.sha256(write_triples(triples, None)).hexdigest()
        output.claim_run("training/run.json", {**record, "triples": {"sha256": digest}})
    if not args.steps:
        print(f"{len(triples):,} triples; --steps 0: no model is trained")
        return 0
    learning, held_out = split(triples, args.held_out, args.seed)
    print(f"{len(learning):,} triples to learn from, {len(held_out):,} held out", file=sys.stderr)
    line = TrainingLine()
    try:
        with flags.naming("--lm", args.lm, "train it again"):
            tuning = PreferenceTuning(
                model,
                learning,
                held_out=held_out,
                settings=settings,
                runtime=RuntimeSettings(
                    device=device,
                    checkpoint_minutes=args.checkpoint_minutes,
                    log_every=args.log_every,
                ),
                output=output,
                show=line,
            )
            before, after = tuning.run(files, {"aligned_from": public_url(args.lm)})
    finally:
        line.close()
    print(f"{'held-out triples':<20}{'before':>12}{'after':>12}")
    for name, value in after.items():
        print(f"{name:<20}{show(before[name]):>12}{show(value):>12}  {MEANINGS[name]}")
    print(f"written to {args.output}/model")
    return 0


def model_digest(model: SpeechLM) -> str:
    """SHA-256 of all weights and their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def triple_settings(args: argparse.Namespace) -> TripleSettings:
    """The settings that the flags give. Raises UsageError for a --top-p of 0."""
    with flags.naming("--top-p", args.top_p, "give more than 0"):
        sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
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
        data = read_whole(fs, path)
    except Exception as error:  # whatever a store raises, this file cannot be read
        raise flags.unusable(flag, url, problem=one_line(error), remedy="check the path") from error
    remedy = 'a line is {"key": ..., "prompt": [1, 2], "chosen": [3], "rejected": [4]}'
    with flags.naming(flag, url, remedy):
        return read_triples(data, model.config)


def made_triples(
    args: argparse.Namespace, model: SpeechLM, *, making: TripleSettings, output: Folder
) -> list[Triple]:
    """OUTPUT's triples, made unless they are there. Raises UsageError when none can be made."""
    if output.fs.exists(output.path(TRIPLES)):
        return given_triples(f"{args.output.rstrip('/')}/{TRIPLES}", model, "--output")
    tokens = flags.named("--make-triples", open_tokens, args.make_triples, model)
    if args.prompt_tokens < model.config.unscored_tokens:
        problem = f"the model, without START, continues {model.config.unscored_tokens} or more"
        raise flags.unusable(
            "--prompt-tokens", args.prompt_tokens, problem=problem, remedy="give more"
        )
    utterances = read_utterances(tokens, model)
    # Spread over all shards, not from the first alone.
    spread = islice(utterances, 0, None, max(1, tokens.num_utterances // making.most))
    with flags.naming("--make-triples", args.make_triples), bar("made", "triples") as line:
        triples = list(make_triples(Generator(model), spread, settings=making, show=line.update))
    if not triples:
        problem = f"no utterance has 4 tokens more than --prompt-tokens {making.prompt_tokens}"
        raise flags.unusable(
            "--make-triples", args.make_triples, problem=problem, remedy="give a lower one"
        )
    with scratch_folder() as scratch:
        path = scratch / TRIPLES
        path.write_bytes(write_triples(triples, model.config.tokenizer))
        output.publish(path, TRIPLES)
    return triples
