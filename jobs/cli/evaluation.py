"""Flags and tables of jobs/evaluate.py: `tokens` and `lm`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.cli.encoders import add_device, add_encoders
from jobs.cli.errors import naming, unusable
from jobs.cli.figures import print_figures, show
from jobs.cli.models import add_lm, add_tokenizer
from jobs.cli.parser import Commands, add_command, add_input, positive

if TYPE_CHECKING:
    from pipeline.evaluation.abx import Item
    from pipeline.evaluation.phone_labels import PhoneLabels
    from pipeline.shards.inputs import Shard

TOKENS = """Tokenize audio shards, as jobs/tokenize.py does, and measure the tokens.

Always: how much of the codebook is used, and the bitrate. With --phones: phone purity, cluster
purity and PNMI (HuBERT, arXiv 2106.07447, 4.2); silence counts as a phone, as in published figures.
With --abx: ABX error within and across speakers, over the tokens' centroids. Where samples' own
json has "text" and "speaker": the edit distance between tokens of one text by two speakers, and
between those of two texts by one speaker. With --encoder: the error of decoded features against
WavLM's. With a tokenizer that has a vocoder: the distance of its speech to the original. These two
use the first window of each utterance. With --compare-precision: the share of tokens that are equal
in fp32 and bf16. Compare only figures of the same files.
"""
TOKEN_MEANINGS = {
    "samples_rejected": "by the tokenize job",
    "active_codes": "codes that occur",
    "codebook_perplexity": "exp of the codes' entropy",
    "bitrate": "bit/s, nominal: tokens_per_second x log2(codebook_size)",
    "entropy_bitrate": "bit/s: tokens per second of audio x their unigram entropy (ZeroSpeech)",
    "compared_tokens": "in fp32 and in bf16",
    "equal_tokens": "share that is the same in both precisions",
    "other_lengths": "utterances with another number of tokens in the other precision",
    "phones": "that occur in scored frames, silence included",
    "audio_without_labels": "utterances",
    "labels_without_audio": "keys of --phones that --input lacks, or that were rejected",
    "phone_purity": "frames whose phone is the likeliest of their code",
    "cluster_purity": "frames whose code is the likeliest of their phone",
    "pnmi": "I(phone; code) / H(phone)",
    "edit_distance_same_text": "0 to 1: one text, two speakers",
    "edit_distance_same_speaker": "0 to 1: two texts, one speaker",
    "same_text_closer": "share of cases where the first is the smaller",
    "abx_within": "error, 0 to 1: all of one speaker",
    "abx_across": "error, 0 to 1: X of another speaker",
    "feature_error": "of decoded features: squared error over variance",
    "top_cosine": "of WavLM's top layer, from decoded and from true features",
    "log_mel_distance": "nepers, resynthesised speech and original",
    "tokens_back": "share that stay the same when resynthesised speech is tokenized",
    "abx_source": "which program computed ABX: not ZeroSpeech's own",
}
LM = """Measure a language model.

With --input: bits per token on token shards, over all tokens of all utterances; a model without
START does not predict their first chunk, which does not count then. With --pairs: how often the
model gives the right one of two recordings the higher likelihood (SALMon, sWUGGY, sBLIMP, spoken
StoryCloze, or what jobs/make_pairs.py made), once by nats per token and once by their sum.
Recordings are tokenized by the model's tokenizer; a tie counts half. Intervals are 95 % (Wilson's,
over groups of pairs: the voices that say one word are one group).
"""
LM_MEANINGS = {
    "bits_per_token": "mean over all predicted tokens of all utterances",
    "perplexity": "2 to the bits_per_token",
    "bits_per_second": "of audio: comparable between tokenizers of other rates",
    "audio_hours": "that the tokens stand for",
}
LEFT_OUT_SHOWN = 10


def add_tokens_command(commands: Commands) -> None:
    """`tokens`, with its flags."""
    parser = add_command(
        commands,
        "tokens",
        about="a tokenizer, by the tokens it makes of audio shards",
        description=TOKENS,
        example="python jobs/evaluate.py tokens --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--json out/figures.json",
    )
    add_input(parser, "audio shards (.tar)")
    add_tokenizer(parser)
    parser.add_argument(
        "--phones", metavar="URL", help='JSON lines of {"key", "frame_ms": 10, "phones": [...]}'
    )
    parser.add_argument(
        "--abx", metavar="URL", help="item file, as Libri-Light's; its files are keys of --input"
    )
    parser.add_argument(
        "--encoder",
        metavar="URL",
        help="the WavLM that the tokenizer was made from, to measure decoded features against",
    )
    parser.add_argument(
        "--compare-precision",
        action="store_true",
        help="tokenize a second time, in the precision that --precision does not name, and measure "
        "how many tokens are equal; these tokens go to a folder below --output",
    )
    parser.add_argument("--json", metavar="URL", help="file for the figures")
    parser.add_argument(
        "--output",
        metavar="URL",
        help="folder to keep the tokens in, an OUTPUT of jobs/tokenize.py; on a cluster of several "
        "nodes, one that all of them reach (default: a temporary folder)",
    )
    add_encoders(parser)


def add_lm_command(commands: Commands) -> None:
    """`lm`, with its flags."""
    parser = add_command(
        commands,
        "lm",
        about="a language model, by token shards or by pairs of recordings",
        description=LM,
        example="python jobs/evaluate.py lm --lm out/lm/model --input out/tokens "
        "--pairs out/pairs --json out/figures.json",
    )
    add_lm(parser)
    parser.add_argument("--input", metavar="URL", help="an OUTPUT of jobs/tokenize.py")
    parser.add_argument(
        "--pairs",
        nargs="+",
        default=[],
        metavar="URL",
        help="folders of recordings in pairs, searched to any depth",
    )
    parser.add_argument("--json", metavar="URL", help="file for the figures")
    where = parser.add_argument_group("where it runs: in this process")
    add_device(where)
    where.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the language model (default: %(default)s)",
    )
    where.add_argument(
        "--batch-tokens",
        type=positive,
        default=8192,
        help="tokens scored at once, padding included (default: %(default)s)",
    )


def check_lm_flags(args: argparse.Namespace) -> None:
    """Raises UsageError if the flags of `lm` name nothing to measure."""
    if not args.input and not args.pairs:
        problem = "nothing is to be measured"
        raise unusable("--input", "(none)", problem, remedy="give it or --pairs")


def read_annotation(
    args: argparse.Namespace, shards: list[Shard]
) -> tuple[PhoneLabels | None, list[Item] | None]:
    """What --phones and --abx name. Raises UsageError if they do not belong to the shards."""
    from pipeline.evaluation.evaluate_tokens import check_keys
    from pipeline.evaluation.phone_labels import read_item_file, read_phones

    phones = items = None
    if args.phones:
        with naming("--phones", args.phones):
            phones = read_phones(args.phones)
            check_keys(args.phones, set(phones.of_key), shards)
    if args.abx:
        with naming("--abx", args.abx):
            items = read_item_file(args.abx)
            check_keys(args.abx, {item.key for item in items}, shards)
    return phones, items


def print_left_out(left_out: dict[str, str]) -> None:
    """The first utterances that are not in the figures, and why."""
    for key, why in list(left_out.items())[:LEFT_OUT_SHOWN]:
        print(f"left out {key}: {why}")
    if len(left_out) > LEFT_OUT_SHOWN:
        print(f"left out {len(left_out) - LEFT_OUT_SHOWN:,} more; --json has them all")


def print_lm(figures: dict, judged: dict[str, dict]) -> None:
    """Figures of token shards, then those of pairs."""
    print_figures(figures, LM_MEANINGS)
    _print_pairs(judged)


def _print_pairs(judged: dict[str, dict]) -> None:
    """A line for each task of each folder of pairs, and one for each subset."""
    for folder, tasks in judged.items():
        width = max(36, *(len(task) + 2 for task in tasks))
        columns = f"{'pairs':>8}{'per token':>11}{'95 %':>18}{'summed':>9}{'95 %':>18}"
        print(f"{folder:<{width}}{columns}")
        for task, figures in tasks.items():
            _print_row(task, figures, width)
            for name, subset in figures.get("subsets", {}).items():
                _print_row(f"  {name}", subset, width)


def _print_row(name: str, figures: dict, width: int) -> None:
    cells = f"{figures['pairs']:>8,}"
    for variant, column in (("per_token", 11), ("summed", 9)):
        low, high = figures[f"interval_{variant}"]
        accuracy = show(figures[f"accuracy_{variant}"])
        cells += f"{accuracy:>{column}}{f'{low:.3f} to {high:.3f}':>18}"
    print(f"{name:<{width}}{cells}")
