"""Turn token shards into speech: audio shards of the same names, KEY.flac and KEY.json.

A frame of 20 ms makes 320 samples at 16 kHz, and an utterance 80 more, so that tokenizing the
result again gives as many tokens. KEY.json is the token shard's. How loud the speech was is not in
tokens: what comes out is at about -23 dBFS. Run it again to finish what is missing. Exit status: 0
all done; 1 a shard failed; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from pipeline.tokenize.detokenize import detokenize, find_token_shards, open_output


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/tokenize.py --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--output out/tokens\n"
        "  python jobs/train_vocoder.py --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--hidden 128 --layers 4 --steps 200 --output out/speaking\n"
        "  python jobs/detokenize.py --input out/tokens --tokenizer out/speaking "
        "--output out/heard",
    )
    parser.add_argument(
        "--input", required=True, metavar="URL", help="an OUTPUT of jobs/tokenize.py"
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="URL",
        help="the folder or URL of the tokenizer that made the tokens, with a vocoder: what "
        "jobs/train_vocoder.py made of it",
    )
    parser.add_argument(
        "--output", required=True, metavar="URL", help="folder for the audio shards"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: GPUs if the cluster has any (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    files = flags.read_tokenizer(args.tokenizer)
    if files.vocoder is None:
        raise flags.unusable(
            "--tokenizer",
            args.tokenizer,
            "it has no vocoder",
            "train one with jobs/train_vocoder.py, and give what that wrote",
        )
    root, shards = find_token_shards(args.input, files, args.tokenizer)
    output = open_output(args.output, files, root)
    done = detokenize(shards, output, files=files, device=args.device)
    for name, why in done["failed"].items():
        print(f"problem: shard {name} failed: {why}; run the same command again", file=sys.stderr)
    made = done["shards"] - done["already_done"] - len(done["failed"])
    if done["already_done"] == done["shards"]:
        print(f"{done['shards']:,} shards: nothing was left to do")
    else:
        print(f"{made:,} of {done['shards']:,} shards, {done['audio_hours']:.3f} h of audio")
    print(f"written to {args.output}")
    return 1 if done["failed"] else 0


if __name__ == "__main__":
    flags.run(main)
