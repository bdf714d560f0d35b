"""Import published weights: a FocalCodec, a WavSLM, or k-means centroids of others.

A FocalCodec and k-means centroids become a tokenizer, a WavSLM a language model with its tokenizer:
folders that every other job takes. Weights are read as tensors only; nothing else in a file is ever
loaded. Exit status: 0 done; 2 unusable arguments, or weights that do not fit.
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
        "python jobs/import_weights.py --from lucadellalib/wavslm_4k --tokenizer out/codec "
        "--output out/wavslm\n"
        "python jobs/import_weights.py --from tests/reference/kmeans.joblib --encoder wavlm-tiny "
        "--layer 4 --output out/units",
    )
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="WEIGHTS",
        help="folder, URL or hub id of a FocalCodec or WavSLM (config.json, and model.safetensors "
        "or model.pt); or a file of k-means centroids: a .npy array (K, D), or a scikit-learn "
        "model that joblib wrote",
    )
    flags.add_output(parser, "the tokenizer or language model")
    parser.add_argument(
        "--tokenizer",
        metavar="URL",
        help="of a WavSLM: its codec, imported before (default: imported by the hub id in its "
        "config.json)",
    )
    kmeans = parser.add_argument_group("of k-means centroids")
    kmeans.add_argument(
        "--encoder",
        metavar="URL",
        help="WavLM, HuBERT or wav2vec 2.0 that they were made of: folder, URL or hub id",
    )
    kmeans.add_argument("--layer", type=flags.count, help="its layer that gave the features")
    kmeans.add_argument(
        "--metric", choices=("l2", "cosine"), help="how the nearest is found (default: l2)"
    )
    return parser.parse_args()


def main() -> int:
    """Flags in, one conversion, a summary out."""
    args = parse()
    from jobs.cli.published import import_weights  # after parsing: it imports PyTorch

    return import_weights(args)


if __name__ == "__main__":
    flags.run(main)
