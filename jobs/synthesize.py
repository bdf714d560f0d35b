"""Make training speech with Debian's free synthesisers, recordings and games.

Writes audio shards in two halves that share no speaker, OUTPUT/a and OUTPUT/b, and shards of noise,
OUTPUT/noise. Beside the shards of a half lie the phones of its English utterances, phones.jsonl.
The same settings give the same bytes with the same Debian packages. Run it again to finish what is
missing. Exit status: 0 all done; 1 a shard failed; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.figures import failed_problems, print_problems
from pipeline.synthesis.plan import ENGINES, SynthesisSettings
from pipeline.synthesis.voices import GAMES


def parse() -> flags.argparse.Namespace:
    """The command line."""
    defaults = SynthesisSettings()
    parser = flags.parser(
        __doc__, "python jobs/synthesize.py --output out/speech --hours 14 --seed 0"
    )
    flags.add_output(parser, "the shards")
    parser.add_argument(
        "--hours",
        type=flags.positive_number,
        default=defaults.hours,
        help="speech to make, half of it in each half (default: %(default)g)",
    )
    parser.add_argument(
        "--seed",
        type=flags.count,
        default=defaults.seed,
        help="of all random choices (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-minutes",
        type=flags.positive_number,
        default=defaults.shard_minutes,
        help="speech in a shard (default: %(default)g)",
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=defaults.engines,
        metavar="ENGINE",
        help=f"some of {', '.join(ENGINES)} (default: all but {GAMES}); {GAMES}: "
        "the dialogue of three adventure games, 7.6 hours of acted English",
    )
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="FILE", help="more sentences to speak, text files"
    )
    parser.add_argument(
        "--same-texts",
        action="store_true",
        help="all voices of a half speak the same sentences, in English, as jobs/make_pairs.py "
        "needs them; use with --engines flite espeak-ng",
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    from pipeline.synthesis.job import synthesize
    from tokenizer.storage.folder import Folder

    settings = SynthesisSettings(
        hours=args.hours,
        seed=args.seed,
        shard_minutes=args.shard_minutes,
        engines=tuple(engine for engine in ENGINES if engine in args.engines),
        text=tuple(args.text),
        same_texts=args.same_texts,
    )
    done = synthesize(settings, flags.named("--output", Folder, args.output))
    for name, hours in done["hours"].items():
        print(f"{name}: {hours:.2f} h, {done['hours_with_phones'].get(name, 0.0):.2f} with phones")
    speakers = sum(done["speakers"].values())
    print(f"{done['utterances']:,} utterances of {speakers} speakers in {done['shards']} shards")
    print(f"written to {args.output}")
    return print_problems(failed_problems(done["failed"]))


if __name__ == "__main__":
    flags.run(main)
