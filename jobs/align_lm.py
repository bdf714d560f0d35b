"""Tune a language model on preferences: how prompts should go on, and how they should not.

By direct preference optimisation (arXiv 2305.18290), on triples of tokens: prompt, chosen and
rejected. --triples reads them, as JSON lines of {"key", "prompt", "chosen", "rejected"}.
--make-triples makes them from token shards: chosen is how an utterance really continues, rejected
how the model continues its beginning. Writes OUTPUT/model, OUTPUT/training with log.jsonl, and the
triples it made. Run the same command again after a kill to continue. Exit status: 0 done; 1 the
loss is not finite; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse

from jobs.cli import flags
from jobs.cli.training import preference_flags


def parse() -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/align_lm.py --lm out/lm/model --make-triples out/tokens --steps 50 "
        "--output out/aligned",
    )
    parser.add_argument(
        "--lm", required=True, metavar="URL", help="the model/ that jobs/train_lm.py wrote"
    )
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the model")
    preference_flags.add_triples(parser)
    preference_flags.add_training(parser.add_argument_group("how it is trained"))
    preference_flags.add_places(parser.add_argument_group("where it runs: in this process"))
    return parser.parse_args()


def main() -> int:
    """Flags in, triples and a tuning, figures out."""
    args = parse()
    from jobs.cli.training.preference import align_lm  # after parsing: it imports PyTorch

    return align_lm(args)


if __name__ == "__main__":
    flags.run(main)
