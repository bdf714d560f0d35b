"""Measure a tokenizer or a language model; print a table, and with --json write the figures too.

Exit status: 0 done; 1 a shard failed or was broken; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.evaluate_lm import add_lm, evaluate_lm
from jobs.cli.figures import open_json, print_figures
from pipeline.evaluation.evaluate_tokens import Evaluation, check_keys, evaluate_tokens
from pipeline.evaluation.phone_labels import read_item_file, read_phones
from pipeline.shards.inputs import find_shards
from tokenizer.storage.fetch import fetch_folder

TOKENS = """Tokenize audio shards, as jobs/tokenize.py does, and measure the tokens.

Always: how much of the codebook is used, and the bitrate. With --phones: phone purity, cluster
purity and PNMI (HuBERT, arXiv 2106.07447, 4.2); silence counts as a phone, as in published figures.
With --abx: ABX error within and across speakers, over the tokens' centroids. Where samples' own
json has "text" and "speaker": how far apart the tokens of one text by two speakers are, and those
of two texts by one speaker. With --encoder: how far what tokens decode to is from WavLM's features.
With a tokenizer that has a vocoder: how far its speech is from the original. (Both over the first
window of each utterance.) Compare only figures that were measured on the same files.
"""

MEANINGS = {
    "samples_rejected": "by the tokenize job",
    "active_codes": "codes that occur",
    "codebook_perplexity": "exp of the codes' entropy",
    "bitrate": "bit/s, nominal: tokens_per_second x log2(codebook_size)",
    "entropy_bitrate": "bit/s: tokens per second of audio x their unigram entropy (ZeroSpeech)",
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
    "top_cosine": "what WavLM's top layer makes of decoded and of true features",
    "log_mel_distance": "nepers, resynthesised speech and original",
    "tokens_back": "share that come back when resynthesised speech is tokenized",
    "abx_source": "who computes it: not ZeroSpeech's own program",
}
LEFT_OUT_SHOWN = 10


def parse() -> flags.argparse.Namespace:
    """The command line."""
    example = (
        "python jobs/evaluate.py tokens --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--json out/figures.json"
    )
    parser = flags.parser(__doc__.strip(), example)
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    tokens = what.add_parser(
        "tokens",
        help="a tokenizer, by the tokens it makes of audio shards",
        description=TOKENS.strip(),
        epilog=parser.epilog,
        formatter_class=parser.formatter_class,
    )
    flags.add_input(tokens, "audio shards (.tar)")
    flags.add_tokenizer(tokens)
    tokens.add_argument(
        "--phones", metavar="URL", help='JSON lines of {"key", "frame_ms": 10, "phones": [...]}'
    )
    tokens.add_argument(
        "--abx", metavar="URL", help="item file, as Libri-Light's; its files are keys of --input"
    )
    tokens.add_argument(
        "--encoder",
        metavar="URL",
        help="the WavLM that the tokenizer was made from, to measure decoded features against",
    )
    tokens.add_argument("--json", metavar="URL", help="file for the figures")
    tokens.add_argument(
        "--output",
        metavar="URL",
        help="folder to keep the tokens in, an OUTPUT of jobs/tokenize.py; on a cluster of several "
        "nodes one that all of them reach (default: a temporary folder)",
    )
    flags.add_encoders(tokens)
    add_lm(what)
    return parser.parse_args()


def main() -> int:
    """Flags in, the command they name, its exit status out."""
    args = parse()
    return evaluate_lm(args) if args.what == "lm" else evaluate_tokenizer(args)


def evaluate_tokenizer(args: flags.argparse.Namespace) -> int:
    """One call into the pipeline, a table out."""
    # Not above: it imports transformers, for seconds that --help and `lm` can do without.
    from pipeline.evaluation.evaluate_decoding import FeatureFigures, decoding_figures

    root, shards = flags.named("--input", find_shards, args.input)
    files = flags.read_tokenizer(args.tokenizer)
    settings = flags.tokenize_settings(args)
    phones = flags.named("--phones", read_phones, args.phones) if args.phones else None
    items = flags.named("--abx", read_item_file, args.abx) if args.abx else None
    if phones is not None:
        flags.named("--phones", check_keys, args.phones, set(phones.of_key), shards)
    if items is not None:
        flags.named("--abx", check_keys, args.abx, {item.key for item in items}, shards)
    features = None
    if args.encoder:
        folder = flags.named("--encoder", fetch_folder, args.encoder, "a WavLM", hub=True)
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
    )
    windowing = settings.windowing(files)
    done.figures.update(decoding_figures(shards, files, windowing=windowing, features=features))
    print_table(done, args.tokenizer)
    if write_json:
        record = {"tokenizer": done.tokenizer, "input": args.input, **done.figures}
        write_json({**record, "left_out": done.left_out, "problems": done.problems})
        print(f"written to {args.json}")
    for problem in done.problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if done.problems else 0


def print_table(done: Evaluation, tokenizer: str) -> None:
    """A line a figure: its name, its value, what it means."""
    print(f"{tokenizer}: tokenizer {done.tokenizer[:12]}")
    print_figures(done.figures, MEANINGS)
    for key, why in list(done.left_out.items())[:LEFT_OUT_SHOWN]:
        print(f"left out {key}: {why}")
    if len(done.left_out) > LEFT_OUT_SHOWN:
        print(f"left out {len(done.left_out) - LEFT_OUT_SHOWN:,} more; --json has them all")


if __name__ == "__main__":
    flags.run(main)
