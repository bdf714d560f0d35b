"""k-means units of others: their centroids and the encoder they belong to → a tokenizer.

Centroids are published as a .npy array, or as the scikit-learn model that fairseq and textless-lib
write with joblib. A unit is the centroid nearest to a feature, as scikit-learn's predict gives it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenizer.config import EncoderConfig, MFCCConfig
from tokenizer.errors import UsageError
from tokenizer.published.inert_pickle import MOST_BYTES, Inert, plain, read_pickle
from tokenizer.storage.tokenizer_files import TokenizerFiles

# The attribute of a scikit-learn KMeans or MiniBatchKMeans.
CENTROIDS = "cluster_centers_"
NPY_MAGIC = b"\x93NUMPY"


def read_centroids(file: Path) -> np.ndarray:
    """(K, D) fp32 of a .npy or joblib file.

    Nothing in the file is run: see inert_pickle.py. Raises UsageError when it holds no centroids.
    """
    file = Path(file)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError("it is over 1 GiB")
        content = file.read_bytes()
        if content.startswith(NPY_MAGIC):
            return _checked(np.load(file, allow_pickle=False))
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"it cannot be read ({error})") from error
    return _checked(_centroids(read_pickle(content)))


def _centroids(value: Any) -> Any:
    """The centroids in what a pickle held: an array itself, or a model's attribute."""
    state = value.state if isinstance(value, Inert) else value
    if isinstance(state, dict):
        if CENTROIDS not in state:
            kind = type(value).__name__[:80]
            raise UsageError(f"it holds {kind!r} without {CENTROIDS}")
        return plain(state[CENTROIDS])
    return value


def _checked(centroids: Any) -> np.ndarray:
    if not isinstance(centroids, np.ndarray):
        raise UsageError(f"it holds a {type(centroids).__name__}, and no array of centroids")
    if centroids.ndim != 2 or not centroids.size or centroids.dtype.kind != "f":
        raise UsageError(
            f"its centroids are {centroids.dtype} of shape {centroids.shape}; floating-point "
            "numbers of shape (K, D) are needed"
        )
    if not np.isfinite(centroids).all():
        raise UsageError("its centroids are not finite")
    return np.array(centroids, dtype=np.float32, order="C")


def import_kmeans(
    centroids: np.ndarray,
    encoder: EncoderConfig | MFCCConfig,
    weights: dict[str, Tensor],
    *,
    metric: str,
    source: str,
) -> TokenizerFiles:
    """A tokenizer whose codes are the centroids, (K, D) fp32.

    weights: the encoder's, in Hugging Face's names. metric: "l2" or "cosine". source: where the
    centroids came from, for the record. Raises UsageError for centroids of another dimension than
    the encoder's features.
    """
    width = encoder.hidden_size
    if centroids.shape[1] != width:
        raise UsageError(
            f"its centroids have {centroids.shape[1]} dimensions, and the encoder's features "
            f"{width}",
            "give the encoder and layer that they were made of",
        )
    files = {f"encoder.{name}": weight for name, weight in weights.items()}
    files["codebook.codes"] = torch.from_numpy(centroids)
    about = {"kind": "k-means", "codes": len(centroids), "metric": metric}
    made_by = {"method": "imported", "from": source, "config": about}
    return TokenizerFiles(encoder, metric, weights=files, made_by=made_by)
