"""Make pairs of recordings, of which one changes its voice or room in the middle.

A language model should give the consistent one the higher likelihood. In SALMon's layout:
OUTPUT/speaker_consistency/sample_0_0.wav and so on, where 0 is the consistent recording. Input:
audio shards. A change of speaker or gender keeps the text, so it needs samples whose json has
"text", "speaker" and "gender", as `jobs/synthesize.py --same-texts` makes them; a change of pitch,
background or room works with any speech. Every two versions make two pairs: each version is the
consistent one once. The same input and seed give the same bytes. Exit status: 0 done; 1 fewer pairs
than --pairs-per-task; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.figures import print_problems
from pipeline.evaluation.consistency_pairs import TASKS


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/make_pairs.py --input tests/speech --tasks speaker noise --pairs-per-task 20 "
        "--output out/pairs",
    )
    flags.add_input(parser, "audio shards (.tar)")
    flags.add_output(parser, "the pairs")
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
        "shards: two voices are then cut at the same phone (default: at the same share of the "
        "text)",
    )
    parser.add_argument(
        "--pairs-per-task",
        type=flags.positive,
        default=200,
        help="an even number (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=flags.count, default=0, help="of all random choices (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one call into the pipeline, a summary out."""
    args = parse()
    from pipeline.evaluation.consistency_pairs import make_pairs, read_recordings
    from pipeline.evaluation.phone_labels import read_phones
    from pipeline.shards.inputs import find_shards
    from tokenizer.storage.folder import Folder

    if args.pairs_per_task % 2:
        raise flags.unusable(
            "--pairs-per-task",
            args.pairs_per_task,
            problem="it is odd, and every two versions make two pairs",
            remedy="give an even number",
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
    print(f"written to {args.output}")
    return print_problems(
        f"{task}: {made[task]} of {args.pairs_per_task} pairs; the input's {len(recordings):,} "
        f"recordings of 1.5 to 20 s have no more of {TASKS[task].needs}"
        for task in tasks
        if made[task] < args.pairs_per_task
    )


if __name__ == "__main__":
    flags.run(main)
