"""Train a tokenizer on audio shards, from the features of one WavLM layer.

kmeans clusters a sample of the features and, with --all-frames, all of them. distill trains a
compressor, one codebook and a decompressor, so that the decompressed features are WavLM's, at its
layer and at its top layer; with --causal it first trains an encoder for streams. Run the same
command again after a kill to continue a distillation or passes over all frames; their log is in
OUTPUT/training. Writes a folder (config.json, model.safetensors) with the encoder's weights up to
the layer, and the rest.
Exit status: 0 done; 1 a shard failed, or the loss is not finite; 2 unusable arguments.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse

from jobs.cli import flags
from jobs.cli.training import tokenizer_flags

KMEANS_ONLY = ["--metric", "--iterations", "--center", "--whiten"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(
        __doc__,
        "python jobs/train_tokenizer.py --input tests/speech --encoder wavlm-tiny "
        "--layer 4 --codebook-size 128 --method kmeans --output out/tokenizer",
    )
    flags.add_input(parser, "audio shards (.tar)")
    tokenizer_flags.add_common(parser)
    all_frames_only = tokenizer_flags.add_all_frames(parser)
    distill_only = tokenizer_flags.add_distillation(parser)
    flags.add_encoders(parser)
    args = parser.parse_args()
    unused = {
        "--method distill": [] if args.method == "distill" else distill_only,
        "--method kmeans": [] if args.method == "kmeans" else KMEANS_ONLY + all_frames_only,
        "--all-frames": [] if args.all_frames else all_frames_only,
    }
    for given in sys.argv[1:]:
        flag = given.partition("=")[0]
        for needed, names in unused.items():
            if flag in names:
                raise flags.unusable(
                    flag,
                    None,
                    problem=f"it goes with {needed} only",
                    remedy="give that too, or leave this out",
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
