"""Make pairs of recordings that test whether a language model minds a change in the middle.

In SALMon's layout (OUTPUT/speaker_consistency/sample_0_0.wav and so on, 0 the one that hangs
together), from audio shards. Another voice and another gender are of the same text, so they need
samples whose json has "text" and "speaker", and "gender", as jobs/synthesize.py --same-texts makes
them; another pitch, background or room takes any speech. Every two versions make two pairs, either
being once the one that goes on. The same input and seed give the same bytes. Exit status: 0 done;
1 fewer pairs than were asked for; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from pipeline.evaluation.consistency_pairs import TASKS, make_pairs, read_recordings
from pipeline.evaluation.phone_labels import read_phones
from pipeline.shards.inputs import find_shards
from tokenizer.storage.folder import Folder


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__.strip(),
        "python jobs/make_pairs.py --input tests/speech --tasks speaker noise --pairs-per-task 20 "
        "--output out/pairs",
    )
    flags.add_input(parser, "audio shards (.tar)")
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the pairs")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=TASKS,
        default=list(TASKS),
        metavar="TASK",
        help=f"some of {', '.join(TASKS)} (default: all)",
    )
    parser.add_argument(
        "--phones",
        metavar="URL",
        help='JSON lines of {"key", "frame_ms", "phones"}, as jobs/synthesize.py writes beside its '
        "shards, to cut two voices at the same phone (default: both at the same share of the text)",
    )
    parser.add_argument(
        "--pairs-per-task", type=flags.positive, default=200, help="even (default: %(default)s)"
    )
    parser.add_argument("--seed", type=flags.count, default=0, help="of all draws (default: 0)")
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    if args.pairs_per_task % 2:
        raise flags.unusable(
            "--pairs-per-task", args.pairs_per_task, "pairs come in twos", "give an even number"
        )
    root, shards = flags.named("--input", find_shards, args.input)
    phones = flags.named("--phones", read_phones, args.phones) if args.phones else None
    output = flags.named("--output", Folder, args.output)
    tasks = [task for task in TASKS if task in args.tasks]
    record = {
        "input": root,
        "shards": [shard.name for shard in shards],
        "tasks": tasks,
        "phones": bool(phones),
        "pairs_per_task": args.pairs_per_task,
        "seed": args.seed,
    }
    output.claim_run("run.json", record)
    recordings = read_recordings(shards, phones)
    made = make_pairs(
        recordings, tasks, pairs_per_task=args.pairs_per_task, seed=args.seed, output=output
    )
    for task, pairs in made.items():
        print(f"{TASKS[task].folder:<24}{pairs:>8,} pairs")
    short = [task for task in tasks if made[task] < args.pairs_per_task]
    for task in short:
        print(
            f"problem: {task}: {made[task]} of {args.pairs_per_task} pairs; the input's "
            f"{len(recordings):,} recordings of 1.5 to 20 s have no more of {TASKS[task].needs}",
            file=sys.stderr,
        )
    print(f"written to {args.output}")
    return 1 if short else 0


if __name__ == "__main__":
    flags.run(main)
