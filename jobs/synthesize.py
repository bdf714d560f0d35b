"""Make training speech with Debian's free synthesisers, prompt recordings and games.

Writes audio shards with two halves that share no speaker, OUTPUT/a and OUTPUT/b, and pure noises,
OUTPUT/noise. Beside the shards of a half lie the phones of its English utterances, phones.jsonl.
The same settings give the same bytes with the same Debian packages. Run it again to finish what is
missing. Exit status: 0 all done; 1 a shard failed; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from pipeline.synthesis.job import synthesize
from pipeline.synthesis.plan import ENGINES, SynthesisSettings
from pipeline.synthesis.voices import GAMES
from tokenizer.storage.folder import Folder


def parse() -> flags.argparse.Namespace:
    """The command line."""
    own = SynthesisSettings()
    parser = flags.parser(
        __doc__.strip(), "python jobs/synthesize.py --output out/speech --hours 14 --seed 0"
    )
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the shards")
    parser.add_argument(
        "--hours",
        type=flags.positive_number,
        default=own.hours,
        help="speech to make, half of it in each half (default: %(default)g)",
    )
    parser.add_argument(
        "--seed", type=flags.count, default=own.seed, help="another one makes other speech"
    )
    parser.add_argument(
        "--shard-minutes",
        type=flags.positive_number,
        default=own.shard_minutes,
        help="speech in a shard (default: %(default)g)",
    )
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=own.engines,
        metavar="ENGINE",
        help=f"some of {', '.join(ENGINES)} (default: all but {GAMES}); {GAMES}: "
        "the dialogue of three adventure games, 7.6 hours of acted English",
    )
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="FILE", help="files of sentences to say as well"
    )
    parser.add_argument(
        "--same-texts",
        action="store_true",
        help="have the voices of a half say the same sentences, all English, as jobs/make_pairs.py "
        "needs them; use with --engines flite espeak-ng",
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    engines = tuple(engine for engine in ENGINES if engine in args.engines)
    settings = SynthesisSettings(
        hours=args.hours,
        seed=args.seed,
        shard_minutes=args.shard_minutes,
        engines=engines,
        text=tuple(args.text),
        same_texts=args.same_texts,
    )
    done = synthesize(settings, flags.named("--output", Folder, args.output))
    for name, why in done["failed"].items():
        print(f"problem: {name} failed: {why}; run the same command again", file=sys.stderr)
    for name, hours in done["hours"].items():
        print(f"{name}: {hours:.2f} h, {done['hours_with_phones'].get(name, 0.0):.2f} with phones")
    speakers = sum(done["speakers"].values())
    print(f"{done['utterances']:,} utterances of {speakers} speakers in {done['shards']} shards")
    print(f"written to {args.output}")
    return 1 if done["failed"] else 0


if __name__ == "__main__":
    flags.run(main)
