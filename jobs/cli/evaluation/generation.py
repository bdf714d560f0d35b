"""`generation` of jobs/evaluate.py: prompts → continuations → scores, batch by batch."""

from __future__ import annotations

import argparse
import sys
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

from jobs.cli import flags
from jobs.cli.evaluation.generation_flags import EXAMPLE, GENERATION, add_generation, check_flags
from jobs.cli.figures import open_json
from jobs.cli.generation import find_prompts
from jobs.cli.parser import Commands, add_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lm.config import LMConfig
    from lm.continuation import ContinuationSettings
    from lm.evaluation.generation import SplitSettings
    from lm.prompts import Prompt
    from pipeline.evaluation.score_models import ScoreModels
    from pipeline.scores.text_perplexity import TextPerplexity
    from tokenizer.storage.folder import Folder
    from tokenizer.storage.tokenizer_files import TokenizerFiles

# Of the scores of resynthesis those that continuations have too; dwer brings the recogniser.
SCORES = ("dwer", "utmos", "dnsmos", "similarity")
LEFT_OUT_SHOWN = 10


def add_generation_command(commands: Commands) -> None:
    """`generation`, with its flags."""
    parser = add_command(
        commands,
        "generation",
        about="what a language model makes follow prompts, beside what really follows",
        description=GENERATION,
        example=EXAMPLE,
    )
    add_generation(parser)
    parser.set_defaults(run=evaluate_generation)


def evaluate_generation(args: argparse.Namespace) -> int:
    """`generation`: draws and scores continuations, and prints a table."""
    check_flags(args)
    from jobs.cli.evaluation.generation_scores import ContinuationScores
    from jobs.cli.evaluation.generation_table import print_columns, record_of
    from lm.evaluation.generation import (
        draw_continuations,
        save_continued,
        sound_of,
        split_utterances,
    )
    from lm.generation import Generator
    from pipeline.cluster.progress import bar
    from tokenizer.codec.decoder import Decoding

    device, precision = flags.device_and_precision(args)
    model, files = flags.read_model(args.lm, device, precision)
    config, split, drawing = model.config, *_settings(args, model.config)
    files = _speaking_tokenizer(args, files)
    urls = find_prompts(args, files)
    output = _open_output(args.save, urls) if args.save else None
    write_json = open_json(args.json) if args.json else None
    models, reader = (None, None) if args.tokens_only else _open_models(args, device)
    decoding = Decoding(files, device) if files and not args.tokens_only else None
    generator = Generator(model)
    del model
    scores = ContinuationScores(models, reader, most=args.self_bleu_most, seed=args.seed)
    left_out: dict[str, str] = {}
    flag = "--prompt-tokens" if args.prompt_tokens else "--prompt"
    with bar("scored", "utterances", args.limit) as progress, flags.naming(flag):
        utterances = _utterances(args, urls, config=config, files=files, device=device)
        openings = split_utterances(utterances, generator, split, left_out=left_out)
        openings = islice(openings, args.limit)
        for batch in draw_continuations(generator, openings, drawing, show=progress.update):
            sounds = [sound_of(each, decoding) for each in batch] if decoding else []
            scores.add(batch, sounds)
            if output:
                for continued, sound in zip_longest(batch, sounds):
                    save_continued(output, continued, sound)
    if output:
        output.sweep()
    if not scores.count:
        problem = f"no utterance is long enough; {_shown(left_out, 1)[0]}"
        raise flags.unusable(flag, " ".join(_values(args)), problem, remedy="give longer ones")
    record = record_of(scores, _model_names(models, reader))
    print(
        f"{args.lm}: {scores.count:,} utterances, {args.samples} continuations each, "
        f"{len(left_out):,} utterances left out ({precision} on {device})"
    )
    for line in _shown(left_out, LEFT_OUT_SHOWN):
        print(line)
    print_columns(record)
    if write_json:
        about = {"lm": args.lm, "tokenizer": config.tokenizer, "input": _values(args)}
        about |= {"device": device, "precision": precision, "settings": _about(args)}
        write_json({**about, **record, "left_out": left_out})
        print(f"written to {args.json}")
    return 0


def _settings(
    args: argparse.Namespace, config: LMConfig
) -> tuple[SplitSettings, ContinuationSettings]:
    """How utterances are split and continued."""
    from lm.continuation import ContinuationSettings
    from lm.evaluation.generation import SplitSettings
    from lm.generation import Sampling
    from lm.prompts import tokens_in

    with flags.naming("--top-p", args.top_p, "give one over 0 and up to 1"):
        sampling = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    prompt, least, longest = (
        tokens_in(seconds, config.frames_per_token)
        for seconds in (args.prompt_seconds, args.least_seconds, args.seconds)
    )
    split = SplitSettings(prompt=prompt, shortest=least, longest=longest)
    return split, ContinuationSettings(
        tokens=longest,
        samples=args.samples,
        seed=args.seed,
        batch_size=args.batch_size,
        sampling=sampling,
    )


def _speaking_tokenizer(
    args: argparse.Namespace, files: TokenizerFiles | None
) -> TokenizerFiles | None:
    """The model's tokenizer, or the one given. files: the one that came with the model.

    Raises UsageError where sound is to be scored and there is none, or no vocoder.
    """
    from lm.continuation import check_tokenizer

    source = f"{args.lm.rstrip('/')}/tokenizer"
    if args.tokenizer:
        given = flags.read_tokenizer(args.tokenizer)
        with flags.naming("--tokenizer", args.tokenizer):
            check_tokenizer(given, files)
        files, source = given, args.tokenizer
    if args.tokens_only:
        return files
    if files is None:
        problem = "it has no tokenizer, and so no sound: it was trained on imported tokens"
        raise flags.unusable("--lm", args.lm, problem, remedy="give --tokens-only")
    if not files.vocoder:
        raise flags.unusable(
            "--tokenizer",
            source,
            problem="it has no vocoder, and so no sound",
            remedy="train one with `jobs/train_vocoder.py` and give its --output, or --tokens-only",
        )
    return files


def _open_output(url: str, prompts: dict[str, str]) -> Folder:
    """--save. Raises UsageError if prompts lie in it, which could be written over."""
    from tokenizer.storage.folder import Folder

    output: Folder = flags.named("--save", Folder, url, "save")
    for prompt in prompts.values():
        if prompt.rpartition("://")[2].startswith(output.path("")):
            problem = f"a prompt lies in it: {prompt}"
            raise flags.unusable("--save", url, problem, remedy="give another folder")
    return output


def _open_models(
    args: argparse.Namespace, device: str
) -> tuple[ScoreModels, TextPerplexity | None]:
    """What hears, and what reads transcripts. Says on stderr which packages are missing for more.

    Raises UsageError for a model that cannot be used.
    """
    from pipeline.evaluation.score_models import (
        PACKAGES,
        ScoreModels,
        ScoreSettings,
        default_scores,
    )
    from pipeline.scores.text_perplexity import TextPerplexity

    given = {"asr": args.asr, "speaker_model": args.speaker_model, "utmos": args.utmos}
    possible, missing = default_scores(**given)
    wanted = [name for name in SCORES if name in possible or (name == "dwer" and args.asr)]
    if without := [PACKAGES[name][1] for name in SCORES if PACKAGES[name][1] in missing]:
        names = ", ".join(without)
        print(f"fewer scores, without {names}: pip install 'wavmill[scores]'", file=sys.stderr)
    settings = ScoreSettings(scores=tuple(wanted), language=args.language, device=device, **given)
    models = ScoreModels(settings)
    if not args.text_lm:
        return models, None
    return models, flags.named("--text-lm", TextPerplexity, args.text_lm, device=device)


def _utterances(
    args: argparse.Namespace,
    urls: dict[str, str],
    *,
    config: LMConfig,
    files: TokenizerFiles | None,
    device: str,
) -> Iterator[Prompt]:
    """Whole utterances, as tokens."""
    from lm.prompts import audio_prompts, token_prompts
    from pipeline.cluster.progress import say_precision
    from tokenizer.tokenizer import Tokenizer

    if args.prompt_tokens:
        return token_prompts(urls, config)
    assert files is not None
    say_precision("fp32", device)
    return audio_prompts(urls, Tokenizer(files, device))


def _model_names(models: ScoreModels | None, reader: TextPerplexity | None) -> dict[str, str]:
    """{score: name and version of the models that take it}."""
    if models is None:
        return {}
    names = dict(models.names)
    if models.recognizer:
        words = f"{models.recognizer.name}; {models.recognizer.normalize.name}"
        names |= {f"{name}_words": words for name in ("auto_bleu_2", "self_bleu_2", "vert_2")}
    if models.recognizer and reader:
        perplexities = ("gen_ppl", "gen_ppl_slamkit", "gen_ppl_all_tokens")
        names |= dict.fromkeys(perplexities, f"{models.recognizer.name}; {reader.name}")
    return names


def _values(args: argparse.Namespace) -> list[str]:
    return args.prompt_tokens or args.prompt


def _about(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that decide the figures, for the record."""
    names = ("prompt_seconds", "seconds", "least_seconds", "limit", "samples", "temperature")
    return {name: getattr(args, name) for name in (*names, "top_k", "top_p", "seed", "language")}


def _shown(left_out: dict[str, str], most: int) -> list[str]:
    """A line for each utterance left out, up to `most`, and one for the rest."""
    lines = [f"left out {key}: {why}" for key, why in islice(left_out.items(), most)]
    if len(left_out) > most:
        lines.append(f"left out {len(left_out) - most:,} more; --json has them all")
    return lines
