"""Flags of jobs/train_tokenizer.py: of both methods, and of --method distill alone."""

import argparse

from jobs.cli import flags
from pipeline.settings import LEAST_FRAMES_PER_CODE

# FAISS's limit: more frames or latents per code change the centroids little.
FRAMES_PER_CODE = 256
# Tokens a second → the factors by which the compressor's blocks, from the first on, merge frames.
FACTORS = {"50": (), "25": (2,), "12.5": (2, 2)}


def add_common(parser: argparse.ArgumentParser) -> None:
    """Output, encoder, method, and the flags of --method kmeans."""
    parser.add_argument("--output", required=True, metavar="URL", help="folder for the tokenizer")
    parser.add_argument(
        "--encoder",
        required=True,
        metavar="URL",
        help="a WavLM: wavlm-tiny, which ships, a folder or URL, or the hub id "
        "microsoft/wavlm-large, -base or -base-plus; for k-means a HuBERT or wav2vec 2.0 too. Or, "
        "to compare with, mfcc, or "
        "mfcc-standardized, with zero mean and unit variance per dimension over a window",
    )
    parser.add_argument(
        "--layer",
        type=flags.positive,
        default=6,
        help="the WavLM layer whose features are used (default: %(default)s)",
    )
    parser.add_argument(
        "--codebook-size", type=flags.positive, default=1024, help="codes (default: %(default)s)"
    )
    parser.add_argument("--method", choices=("kmeans", "distill"), default="kmeans")
    parser.add_argument(
        "--metric",
        choices=("l2", "cosine"),
        default="l2",
        help="cosine is spherical k-means (default: %(default)s)",
    )
    parser.add_argument(
        "--max-frames",
        type=flags.positive,
        help=f"frames to cluster, of a sample of the shards (default: {FRAMES_PER_CODE} per code)",
    )
    parser.add_argument(
        "--iterations", type=flags.positive, default=25, help="of k-means (default: %(default)s)"
    )
    parser.add_argument(
        "--center",
        action="store_true",
        help="shift the features of each window so that their mean is that of all speech: codes "
        "then depend less on the speaker, and more on what is said",
    )
    parser.add_argument(
        "--whiten",
        type=flags.positive,
        default=0,
        metavar="DIMENSIONS",
        help="cluster this many principal components, scaled to unit variance: 32 helps in WavLM's "
        "upper layers (default: the features as they are)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")


def add_all_frames(parser: argparse.ArgumentParser) -> list[str]:
    """The flags of --all-frames. Returns their names."""
    group = parser.add_argument_group("k-means over all frames of all shards")
    group.add_argument(
        "--all-frames",
        action="store_true",
        help="go on from the codes of the sample with passes over all frames, on all machines; run "
        f"the same command again after a kill. The sample then has {LEAST_FRAMES_PER_CODE} frames "
        "a code, unless --max-frames says otherwise",
    )
    group.add_argument(
        "--passes",
        type=flags.positive,
        default=10,
        help="with --all-frames, over all frames (default: %(default)s)",
    )
    group.add_argument(
        "--cache-gb",
        type=flags.not_negative,
        default=0.0,
        help="with --all-frames, the most gigabytes of features that each node keeps on its local "
        "disk for the next pass; features that do not fit are computed in every pass (default: 0)",
    )
    group.add_argument(
        "--cache-folder",
        metavar="DIR",
        help="on each node, for these features (default: the system's, for temporary files)",
    )
    return [flag for action in group._group_actions for flag in action.option_strings]


def add_distillation(parser: argparse.ArgumentParser) -> list[str]:
    """The flags of --method distill. Returns their names."""
    group = parser.add_argument_group("with --method distill")
    group.add_argument(
        "--rate",
        choices=FACTORS,
        default="50",
        help="tokens a second (default: %(default)s)",
    )
    group.add_argument(
        "--quantizer",
        choices=("codebook", "bsq"),
        default="codebook",
        help="a learned codebook, or binary spherical codes (default: %(default)s)",
    )
    group.add_argument(
        "--steps",
        type=flags.positive,
        default=3000,
        help="of training with the codebook (default: %(default)s)",
    )
    group.add_argument(
        "--warm-up-steps",
        type=flags.positive,
        default=500,
        help="before these, without the codebook (default: %(default)s)",
    )
    group.add_argument(
        "--hidden",
        type=flags.positive,
        nargs="+",
        help="width of each block of the compressor (default: three blocks, as wide as the "
        "features, half and a quarter, as FocalCodec's)",
    )
    group.add_argument(
        "--latent",
        type=flags.positive,
        default=32,
        help="dimensions of a code; a binary code has one per bit (default: %(default)s)",
    )
    group.add_argument(
        "--loss-weights",
        type=flags.not_negative,
        nargs=4,
        default=[1, 1, 1, 0.25],
        metavar=("FEATURES", "TOP", "ALONE", "QUANTIZER"),
        help="weights of the losses: the features' error, the top layer's, the top layer's "
        "predicted from each code alone, the quantizer's (default: %(default)s)",
    )
    group.add_argument(
        "--causal",
        action="store_true",
        help="a tokenizer for streams: a token depends on no audio after its chunk of 80 ms. Give "
        "rows of at least 12 s, so that its encoder trains with all the past it can see",
    )
    group.add_argument(
        "--encoder-steps",
        type=flags.positive,
        default=3000,
        help="with --causal, of training the encoder first (default: %(default)s)",
    )
    group.add_argument(
        "--replicate-padding",
        action="store_true",
        help="with --causal, pad as FocalCodec-Stream does: convolutions are padded by their first "
        "input, n samples give ceil(n / 320) frames, and a chunk is complete after 80 ms",
    )
    group.add_argument(
        "--raw-input",
        action="store_true",
        help="the tokenizer gets audio as it is, not normalised; one made with --causal always "
        "does. FocalCodec's layout holds no other",
    )
    group.add_argument("--learning-rate", type=flags.positive_number, default=1e-3)
    group.add_argument(
        "--rows", type=flags.positive, default=8, help="rows in a batch (default: %(default)s)"
    )
    group.add_argument(
        "--row-seconds", type=flags.positive_number, default=4, help="default: %(default)g"
    )
    group.add_argument(
        "--workers",
        type=flags.positive,
        default=1,
        help="processes that train, one per GPU (default: 1)",
    )
    group.add_argument(
        "--checkpoint-minutes", type=flags.positive_number, default=2, help="default: %(default)g"
    )
    return [flag for action in group._group_actions for flag in action.option_strings]
