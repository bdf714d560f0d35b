"""Train a tokenizer on audio shards, from the features of one WavLM layer.

kmeans clusters a sample of the features. distill trains a compressor, one codebook and a
decompressor, so that the decompressed features are WavLM's, at its layer and at its top layer; with
--causal it first trains an encoder for streams. Run the same command again after a kill to continue
a distillation; its log is in OUTPUT/training. Writes a folder (config.json, model.safetensors) with
the encoder's weights up to the layer, and the rest.
Exit status: 0 done; 1 a shard failed, or the loss is not finite; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse

from jobs.cli import flags
from jobs.cli.training import tokenizer_flags

KMEANS_ONLY = ("--metric", "--iterations", "--center", "--whiten")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/train_tokenizer.py --input tests/speech --encoder wavlm-tiny "
        "--layer 4 --codebook-size 128 --method kmeans --output out/tokenizer",
    )
    flags.add_input(parser, "audio shards (.tar)")
    tokenizer_flags.add_common(parser)
    distill_only = tokenizer_flags.add_distillation(parser)
    flags.add_encoders(parser)
    args = parser.parse_args()
    unused = distill_only if args.method == "kmeans" else KMEANS_ONLY
    for given in sys.argv[1:]:
        flag = given.partition("=")[0]
        if flag in unused:
            raise flags.unusable(
                "--method",
                args.method,
                problem=f"it has no use for {flag}",
                remedy="leave that out",
            )
    return args


def main() -> int:
    """Flags in, a training, a summary out."""
    args = parse()
    args.precision = flags.settled_precision(args)
    # After parsing, and one of them alone: they import Ray, PyTorch and transformers.
    if args.method == "distill":
        from jobs.cli.training.distillation import train
    else:
        from jobs.cli.training.clustering import train
    return train(args)


if __name__ == "__main__":
    flags.run(main)
