"""The codebook by FAISS k-means: Euclidean, spherical, or over whitened principal components."""

import sys

import faiss
import numpy as np

from pipeline.cluster.progress import LOG_SECONDS, bar


def train_kmeans(
    features: np.ndarray, codes: int, metric: str, *, seed: int, iterations: int
) -> tuple[np.ndarray, float]:
    """Cluster features into `codes` centroids by FAISS (Lloyd's iterations, empty clusters split).

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
        # FAISS takes all features: the sample that came here is the only limit.
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),
    )
    centroids, objective = None, 0.0
    # In a log, a clustering that is soon done shows nothing.
    delay = 0.0 if sys.stderr.isatty() else LOG_SECONDS
    with bar("k-means", "iterations", iterations, leave=False, delay=delay) as progress:
        # One iteration a call, from where the last one ended, so that progress can be shown.
        for _ in range(iterations):
            objective = kmeans.train(features, init_centroids=centroids)
            centroids = kmeans.centroids
            progress.update()
    return np.asarray(centroids), float(objective) / len(features)


def train_whitened(
    features: np.ndarray, codes: int, dimensions: int, *, seed: int, iterations: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cluster features by their first principal components, each scaled to unit variance.

    Without scaling, the few directions of a layer that vary most decide alone; the many weak ones
    add noise and are left out (FAISS's "PCAW"). features: (n, D) fp32, n >= codes and n >
    dimensions. Returns the centroids (codes, D), means of each cluster's features; the projection
    (dimensions, D); and the mean squared distance after projection. Raises ValueError as
    train_kmeans does.
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
    # An empty cluster has no mean: its centroid keeps its principal components, and gets the
    # features' mean in all other directions.
    means = features.mean(0) + (centroids - projected.mean(0)) @ np.linalg.pinv(projection).T
    means[counts > 0] = (sums[counts > 0] / counts[counts > 0, None]).astype(np.float32)
    return means.astype(np.float32), projection, objective
