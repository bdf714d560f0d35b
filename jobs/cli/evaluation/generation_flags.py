"""Flags of `generation` of jobs/evaluate.py, and the settings they give."""

from __future__ import annotations

import argparse

from jobs.cli import flags
from jobs.cli.evaluation.scores import add_score_models
from jobs.cli.generation import add_prompts, add_sampling

GENERATION = """Score what a language model makes follow a prompt, beside what really follows.

The first seconds of each utterance are the prompt. The model continues it as long as the utterance
goes on, at most --seconds; both continuations go through the same vocoder. Each score has a 95 %
interval over utterances (bootstrap). Of tokens: auto-BLEU, self-BLEU and VERT of unigrams and
bigrams (GSLM, arXiv 2102.01192), the share of tokens equal to the one before, and of 4-grams that
were there before. Of sound: share of silence, longest pause, DNSMOS, UTMOS with --utmos, and how
alike the voice is to the prompt's. Of what a recogniser hears, with --asr: auto-BLEU, self-BLEU
and VERT of its words, as GSLM's paper reports them; and with --text-lm generative perplexity.
"""
EXAMPLE = (
    "python jobs/evaluate.py generation --lm out/lm/model --prompt-tokens out/test-tokens "
    "--asr openai/whisper-small --text-lm openai-community/gpt2 --json out/generation.json\n"
    "python jobs/evaluate.py generation --lm out/lm/model --prompt recordings/*.flac "
    "--limit 10 --save out/heard"
)


def add_generation(parser: argparse.ArgumentParser) -> None:
    """All flags of the command."""
    flags.add_lm(parser)
    add_prompts(parser)
    parser.add_argument(
        "--prompt-seconds",
        type=flags.positive_number,
        default=3.0,
        help="length of a prompt: the beginning of each utterance (default: %(default)g)",
    )
    parser.add_argument(
        "--seconds",
        type=flags.positive_number,
        default=10.0,
        help="longest continuation; a shorter utterance has a shorter one (default: %(default)g)",
    )
    parser.add_argument(
        "--least-seconds",
        type=flags.positive_number,
        default=1.0,
        help="leave out utterances that go on for less after the prompt (default: %(default)g)",
    )
    parser.add_argument(
        "--limit", type=flags.positive, help="use only the first utterances, this many"
    )
    parser.add_argument(
        "--samples",
        type=flags.positive,
        default=1,
        help="continuations of each prompt; an utterance's score is their mean "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", metavar="URL", help="file for the figures")
    parser.add_argument(
        "--save",
        metavar="URL",
        help="folder for the continuations: KEY.tokens.npy, KEY.joined.wav (the prompt and what "
        "follows), KEY.wav, and KEY.real.wav, what really follows",
    )
    add_sampling(parser.add_argument_group("how tokens are drawn"))
    scores = parser.add_argument_group("scores")
    add_score_models(scores)
    scores.add_argument(
        "--text-lm",
        metavar="MODEL",
        help="causal language model of text for generative perplexity, as a folder or hub id such "
        "as openai-community/gpt2",
    )
    scores.add_argument(
        "--tokens-only",
        action="store_true",
        help="score tokens alone; no sound is made, and no vocoder is needed",
    )
    scores.add_argument(
        "--self-bleu-most",
        type=flags.positive,
        default=1000,
        help="utterances among which self-BLEU and VERT are computed, drawn by --seed from all; "
        "self-BLEU grows with their number (default: %(default)s)",
    )
    where = parser.add_argument_group("where and how it runs: in this process")
    where.add_argument(
        "--tokenizer",
        metavar="URL",
        help="the model's tokenizer with a vocoder (default: the one in --lm)",
    )
    flags.add_device(where)
    where.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the language model; auto: bf16 if the machine has fast bf16; everything else is "
        "in fp32 (default: %(default)s)",
    )
    where.add_argument(
        "--batch-size",
        type=flags.positive,
        default=8,
        help="continuations side by side, whose sound is in memory (default: %(default)s)",
    )


def check_flags(args: argparse.Namespace) -> None:
    """Raises UsageError for flags that ask for what others forbid."""
    sound = {
        "--asr": args.asr,
        "--text-lm": args.text_lm,
        "--utmos": args.utmos,
        "--speaker-model": args.speaker_model,
    }
    for flag, value in sound.items():
        if value and args.tokens_only:
            problem, remedy = "no sound is scored", "leave it or --tokens-only out"
            raise flags.unusable(flag, value, problem, remedy=remedy)
    if args.text_lm and not args.asr:
        problem, remedy = "there are no transcripts to read", "give a recogniser, with --asr"
        raise flags.unusable("--text-lm", args.text_lm, problem, remedy=remedy)
    if args.least_seconds > args.seconds:
        problem = f"no continuation is longer than --seconds {args.seconds:g}"
        raise flags.unusable("--least-seconds", args.least_seconds, problem, remedy="give less")
