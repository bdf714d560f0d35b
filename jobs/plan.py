"""Plan a run: hours of GPUs, cores, nodes, storage and money for so many hours of speech.

It starts nothing. Everything is computed from measured rates, which ship with the project and which
the benches measure anew with their --rates FILE; what nobody has measured is marked ASSUMED. Every
assumption is printed. Money needs --prices FILE: no price is built in.
Exit status: 0 done; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import json

from jobs.cli import flags
from jobs.cli.planning import add_plan, print_plan, settings_of


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/plan.py --hours 60000 --encoder wavlm-large --layer 6 --container flac16 "
        "--gpu h100 --deadline-days 1",
    )
    add_plan(parser)
    return parser.parse_args()


def main() -> int:
    """Flags in, a plan, a table out."""
    args = parse()
    from pipeline.capacity.plan import make_plan
    from pipeline.capacity.prices import read_prices
    from pipeline.capacity.rates import read_rates

    rates = flags.named("--rates", read_rates, args.rates)
    prices = flags.named("--prices", read_prices, args.prices) if args.prices else None
    settings = settings_of(args)
    plan = make_plan(settings, rates, prices)
    print_plan(plan, settings, prices)
    if args.json:
        figures = {"figures": plan.figures, "assumptions": plan.assumptions, "limit": plan.limit}
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    flags.run(main)
