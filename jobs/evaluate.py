"""Measure a tokenizer or a language model, and print a table of figures.

With --json the figures are written to a file too, and --compare puts such files side by side. Exit
status: 0 done; 1 a shard failed or was broken; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags
from jobs.cli.evaluation import compare, generation, lm, tokens


def parse() -> flags.argparse.Namespace:
    """The command line. run: the function of the command it names."""
    parser = flags.parser(
        __doc__,
        "python jobs/evaluate.py tokens --input tests/speech --tokenizer wavlm-tiny-km256 "
        "--json out/figures.json\n"
        "python jobs/evaluate.py --compare out/figures.json out/other.json",
    )
    compare.add_compare(parser)
    commands = flags.add_commands(parser, "what", "WHAT")
    tokens.add_tokens_command(commands)
    lm.add_lm_command(commands)
    generation.add_generation_command(commands)
    return compare.parse(parser, commands)


def main() -> int:
    """Flags in, the command they name, its exit status out."""
    args = parse()
    return args.run(args)


if __name__ == "__main__":
    flags.run(main)
