"""The codebook by FAISS k-means, Euclidean, spherical or over whitened principal components."""

import sys

import faiss
import numpy as np
from tqdm import tqdm

from pipeline.cluster.bars import LOG_SECONDS


def train_kmeans(
    features: np.ndarray, codes: int, metric: str, seed: int, iterations: int
) -> tuple[np.ndarray, float]:
    """Cluster features into `codes` centroids by FAISS (Lloyd's iterations, empty ones split).

    features: (n, D) fp32, n >= codes; for "cosine" they are scaled to unit length in place.
    Returns the centroids (codes, D) fp32, and the mean squared distance, or for "cosine" the mean
    cosine, of the last iteration. Raises ValueError with fewer features than codes.
    """
    if len(features) < codes:
        raise ValueError(f"{codes} codes need as many frames; there are {len(features)}")
    spherical = metric == "cosine"
    features = np.ascontiguousarray(features, np.float32)
    if spherical:
        faiss.normalize_L2(features)
    kmeans = faiss.Kmeans(
        features.shape[1],
        codes,
        niter=1,
        seed=seed,
        spherical=spherical,
        # All frames that were sampled are used: --max-frames is the only bound on them.
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),
    )
    centroids = None
    # One iteration a call, from where the last one ended, so that progress can be shown.
    on_terminal = sys.stderr.isatty()
    for _ in tqdm(
        range(iterations),
        "k-means",
        leave=False,
        # In a job's log a line now and then, and none of a clustering that is soon done.
        mininterval=0.1 if on_terminal else LOG_SECONDS,
        delay=0 if on_terminal else LOG_SECONDS,
    ):
        objective = kmeans.train(features, init_centroids=centroids)
        centroids = kmeans.centroids
    return centroids, float(objective) / len(features)


def train_whitened(
    features: np.ndarray, codes: int, dimensions: int, seed: int, iterations: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cluster features by their first principal components, each scaled to unit variance.

    A few strong directions of a layer would decide alone otherwise, and the many weak ones blur
    (FAISS's "PCAW"). features: (n, D) fp32, n >= codes and n > dimensions. Returns the centroids
    (codes, D), means of the features in each; the projection (dimensions, D); and the mean squared
    distance by it. Raises ValueError as train_kmeans does.
    """
    width = features.shape[1]
    pca = faiss.PCAMatrix(width, dimensions)
    pca.train(np.ascontiguousarray(features, np.float32))
    projection = faiss.vector_to_array(pca.A).reshape(dimensions, width)
    projection /= np.maximum((features @ projection.T).std(0), 1e-6)[:, None]
    projected = features @ projection.T
    centroids, objective = train_kmeans(
        projected, codes, metric="l2", seed=seed, iterations=iterations
    )
    index = faiss.IndexFlatL2(dimensions)
    index.add(centroids)
    nearest = index.search(projected, 1)[1][:, 0]
    counts = np.bincount(nearest, minlength=codes)
    sums = np.zeros((codes, width), np.float64)
    np.add.at(sums, nearest, features)
    # Of no frame, a code stays where it was among the components, and is average beyond them.
    means = features.mean(0) + (centroids - projected.mean(0)) @ np.linalg.pinv(projection).T
    means[counts > 0] = (sums[counts > 0] / counts[counts > 0, None]).astype(np.float32)
    return means.astype(np.float32), projection, objective
