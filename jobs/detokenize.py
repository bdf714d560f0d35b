"""Turn token shards into speech: audio shards of the same names.

A sample is KEY.flac and KEY.json. At 16 kHz a frame of 20 ms gives 320 samples, and an utterance 80
more, so tokenizing the result gives the same number of tokens. Other vocoders have another rate,
such as 24 kHz with 480 samples a frame and none more. KEY.json is the token shard's.
Tokens do not hold the loudness of speech: the output is at about -23 dBFS. Run it again to finish
what is missing. Exit status: 0 all done; 1 a shard failed; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.figures import failed_problems, print_problems


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/tokenize.py --input tests/speech --tokenizer wavlm-tiny-d1024 "
        "--output out/tokens\n"
        "python jobs/detokenize.py --input out/tokens --tokenizer wavlm-tiny-d1024 "
        "--output out/speech",
    )
    parser.add_argument(
        "--input", required=True, metavar="URL", help="an OUTPUT of jobs/tokenize.py"
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="URL",
        help="the tokenizer that made the tokens, with a vocoder: wavlm-tiny-d1024, or the folder "
        "or URL that jobs/train_vocoder.py wrote",
    )
    flags.add_output(parser, "the audio shards")
    flags.add_device(parser, "auto: GPUs if the cluster has any")
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    from pipeline.tokenize.detokenize import detokenize, find_token_shards, open_output

    files = flags.read_tokenizer(args.tokenizer)
    if files.vocoder is None:
        raise flags.unusable(
            "--tokenizer",
            args.tokenizer,
            problem="it has no vocoder",
            remedy="train one with jobs/train_vocoder.py, and give what that wrote",
        )
    root, shards = find_token_shards(args.input, files, args.tokenizer)
    output = open_output(args.output, files, root)
    done = detokenize(shards, output, files=files, device=args.device)
    finished = done["shards"] - done["already_done"] - len(done["failed"])
    if done["already_done"] == done["shards"]:
        print(f"{done['shards']:,} shards: nothing was left to do")
    else:
        print(f"{finished:,} of {done['shards']:,} shards, {done['audio_hours']:.3f} h of audio")
    print(f"written to {args.output}")
    return print_problems(failed_problems(done["failed"], "shard"))


if __name__ == "__main__":
    flags.run(main)
