"""`tokens` of jobs/evaluate.py: its flags, and what it does with them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.cli import flags
from jobs.cli.evaluation.scores import add_scores, print_row, print_scores, score_settings
from jobs.cli.figures import open_json, print_figures, print_problems, with_intervals
from jobs.cli.parser import Commands, add_command

if TYPE_CHECKING:
    from pipeline.evaluation.abx_items import Item
    from pipeline.evaluation.phone_labels import PhoneLabels
    from pipeline.shards.inputs import Shard

TOKENS = """Tokenize audio shards, as jobs/tokenize.py does, and measure the tokens.

Always: how much of the codebook is used, and the bitrate. With --phones: phone purity, cluster
purity and PNMI (HuBERT, arXiv 2106.07447, 4.2) with 95 % intervals over utterances; silence counts
as a phone, as in published figures; and PNMI by speaker, where samples' own json has "speaker".
With --abx: ABX error within and across speakers, over the tokens' centroids, by fastabx where it is
installed. Where samples' json has "text" and "speaker": the edit distance between tokens of one
text by two speakers, and between those of two texts by one speaker. With --encoder: the error of
decoded features against WavLM's. With a tokenizer that has a vocoder: the distance of its speech to
the original, and scores of it as papers on codecs report them, with 95 % intervals over utterances:
DNSMOS, UTMOS, dWER, similarity of the voice, pitch, STOI, PESQ; beside those of the original and,
with --encoder, of what the vocoder makes of WavLM's own features. These use the first window of
each utterance. With --compare-precision: the share of tokens that are equal in fp32 and bf16.
Compare only figures of the same files.
"""
TOKEN_MEANINGS = {
    "samples_rejected": "by the tokenize job",
    "active_codes": "codes that occur",
    "code_usage": "share of the codes that occur",
    "codebook_perplexity": "exp of the codes' entropy",
    "normalized_entropy": "the codes' entropy over that of codes that are equally frequent",
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
    "pnmi_by_speaker": "mean of PNMI in each speaker's own frames; fewer frames make it higher",
    "edit_distance_same_text": "0 to 1: one text, two speakers",
    "edit_distance_same_speaker": "0 to 1: two texts, one speaker",
    "same_text_closer": "share of cases where the first is the smaller",
    "abx_within": "error, 0 to 1: all of one speaker",
    "abx_across": "error, 0 to 1: X of another speaker",
    "feature_error": "of decoded features: squared error over variance",
    "top_cosine": "of WavLM's top layer, from decoded and from true features",
    "log_mel_distance": "nepers, resynthesised speech and original",
    "tokens_back": "share that stay the same when resynthesised speech is tokenized",
    "times_real_time": "seconds of audio in a second of encoding and decoding, in one process",
    "abx_source": "the program that computed ABX",
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
    flags.add_input(parser, "audio shards (.tar)")
    flags.add_tokenizer(parser)
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
    add_scores(parser)
    flags.add_encoders(parser)
    parser.set_defaults(run=evaluate_tokenizer)


def evaluate_tokenizer(args: argparse.Namespace) -> int:
    """`tokens`: one call into the pipeline, a table out."""
    from pipeline.evaluation.evaluate_decoding import FeatureFigures, decoding_figures
    from pipeline.evaluation.evaluate_tokens import evaluate_tokens
    from pipeline.evaluation.resynthesis import ResynthesisScores, Taken
    from pipeline.shards.inputs import find_shards
    from tokenizer.storage.fetch import fetch_folder

    root, shards = flags.named("--input", find_shards, args.input)
    files = flags.read_tokenizer(args.tokenizer)
    wanted = score_settings(args, has_vocoder=files.vocoder is not None)
    scores = ResynthesisScores(wanted) if wanted else None
    args.precision = flags.settled_precision(args, args.output)
    flags.warn_of_bf16(files, args.precision)
    settings = flags.tokenize_settings(args)
    phones, items = read_annotation(args, shards)
    features = None
    if args.encoder:
        folder = flags.named("--encoder", fetch_folder, args.encoder, kind="a WavLM", hub=True)
        with flags.naming("--encoder", args.encoder, "give the WavLM it was made from"):
            features = FeatureFigures(files, folder)
    write_json = open_json(args.json) if args.json else None
    done = evaluate_tokens(
        shards,
        root,
        files=files,
        source=args.tokenizer,
        settings=settings,
        encoder_settings=flags.encoder_settings(args),
        phones=phones,
        items=items,
        output=args.output,
        compare_precision=args.compare_precision,
    )
    windowing = settings.windowing(files)
    decoded = decoding_figures(
        shards,
        files,
        windowing=windowing,
        features=features,
        scores=scores,
        left_out=done.left_out,
    )
    done.figures.update(decoded.figures)
    done.scores.update(decoded.scores)
    done.utterances = joined(done.utterances, decoded.utterances)
    taken = scores.taken() if scores else Taken()
    print(f"{args.tokenizer}: tokenizer {done.tokenizer[:12]}")
    print_figures(done.figures, with_intervals(TOKEN_MEANINGS, done.scores))
    if taken.scores:
        print_scores(taken.scores, taken.unscored)
        print_row(args.tokenizer, done.figures, taken.scores)
    print_left_out(done.left_out)
    if write_json:
        record = {"tokenizer": done.tokenizer, "input": args.input, **done.figures}
        record |= {"scores": {**done.scores, **taken.scores}, "unscored": taken.unscored}
        record |= {"utterances": joined(done.utterances, taken.utterances)}
        record |= {"speakers": done.speakers}
        write_json({**record, "left_out": done.left_out, "problems": done.problems})
        print(f"written to {args.json}")
    return print_problems(done.problems)


def joined(first: dict[str, dict], second: dict[str, dict]) -> dict[str, dict]:
    """The values of each utterance from both."""
    return {key: first.get(key, {}) | second.get(key, {}) for key in {**first, **second}}


def read_annotation(
    args: argparse.Namespace, shards: list[Shard]
) -> tuple[PhoneLabels | None, list[Item] | None]:
    """What --phones and --abx name. Raises UsageError if they do not belong to the shards."""
    from pipeline.evaluation.evaluate_tokens import check_keys
    from pipeline.evaluation.phone_labels import read_item_file, read_phones

    phones = items = None
    if args.phones:
        with flags.naming("--phones", args.phones):
            phones = read_phones(args.phones)
            check_keys(args.phones, set(phones.of_key), shards)
    if args.abx:
        with flags.naming("--abx", args.abx):
            items = read_item_file(args.abx)
            check_keys(args.abx, {item.key for item in items}, shards)
    return phones, items


def print_left_out(left_out: dict[str, str]) -> None:
    """The first utterances that are not in the figures, and why."""
    for key, why in list(left_out.items())[:LEFT_OUT_SHOWN]:
        print(f"left out {key}: {why}")
    if len(left_out) > LEFT_OUT_SHOWN:
        print(f"left out {len(left_out) - LEFT_OUT_SHOWN:,} more; --json has them all")
