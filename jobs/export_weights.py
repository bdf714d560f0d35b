"""Export a tokenizer or language model in the layout of FocalCodec or WavSLM.

Writes config.json and model.json, which are the same, and model.safetensors: the authors' code
loads OUTPUT from the hub, or OUTPUT/model.json from a disk. The tokenizer of a language model is
written below OUTPUT/codec. What their layout cannot hold is refused by name. Exit status: 0 done; 2
unusable arguments, or a model that does not fit.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from jobs.cli import flags


def parse() -> flags.argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/import_weights.py --from lucadellalib/focalcodec_50hz_4k_causal "
        "--output out/codec\n"
        "python jobs/export_weights.py --from out/codec --output out/exported",
    )
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="URL",
        help="the folder or URL of a tokenizer, or of a language model's model/",
    )
    flags.add_output(parser, "the checkpoint")
    parser.add_argument(
        "--codec-config",
        metavar="ID",
        help="of a language model: where their code finds its codec, a hub id or a path (default: "
        "the hub id that it was imported from, or OUTPUT/codec/model.json)",
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one conversion, a summary out."""
    args = parse()
    from jobs.cli.published import export_weights  # after parsing: it imports PyTorch

    return export_weights(args)


if __name__ == "__main__":
    flags.run(main)
