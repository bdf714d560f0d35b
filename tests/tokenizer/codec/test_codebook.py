"""The codebook: the nearest codes are FAISS's, k-means is as good as one call of FAISS, and the
sample of frames for k-means is even.
"""

import faiss
import numpy as np
import pytest
import torch

from pipeline.training.kmeans import train_kmeans, train_whitened
from pipeline.training.sample_features import PIECE_FRAMES, Reservoir
from tokenizer.codec.codebook import Codebook, is_binary
from tokenizer.codec.quantizers import BinarySpherical

# As in models.py: threads only wait for each other over so little work.
faiss.omp_set_num_threads(1)
torch.set_num_threads(1)


def clusters(n, dim, centres, seed, spread=0.1):
    """(n, dim) fp32 around random centres: what features look like, unlike plain noise."""
    random = np.random.default_rng(seed)
    middle = random.standard_normal((centres, dim))
    noise = spread * random.standard_normal((n, dim))
    return (middle[random.integers(centres, size=n)] + noise).astype(np.float32)


def noise(n, dim, seed):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(
    "features, codes",
    [
        (noise(3000, 64, 0), noise(256, 64, 1)),
        (
            clusters(3000, 64, centres=40, seed=2),
            clusters(1000, 64, centres=40, seed=2)[::-1].copy(),
        ),
        # Codes of unlike length, where a missing |c|^2 would be seen at once.
        (
            clusters(3000, 16, centres=40, seed=3) + 5,
            clusters(300, 16, centres=40, seed=3)
            * np.linspace(0.5, 2, 300, dtype=np.float32)[:, None],
        ),
        (noise(1500, 8, 4), noise(65_536, 8, 5)),
    ],
    ids=["noise", "clustered", "off-centre", "65536-codes"],
)
def test_nearest_is_that_of_faiss(features, codes, metric):
    dim = codes.shape[1]
    ours = Codebook(torch.from_numpy(codes), metric).nearest(torch.from_numpy(features)).numpy()
    if metric == "cosine":
        index, codes, features = faiss.IndexFlatIP(dim), codes.copy(), features.copy()
        faiss.normalize_L2(codes)
        faiss.normalize_L2(features)
    else:
        index = faiss.IndexFlatL2(dim)
    index.add(codes)
    theirs = index.search(features, 1)[1][:, 0]
    assert ours.dtype == np.int64
    assert np.mean(ours == theirs) > 0.999
    # Where they differ the two codes are equally near, to fp32's rounding.
    differ = ours != theirs
    x, a, b = (v.astype(np.float64) for v in (features, codes[ours], codes[theirs]))
    gap = np.square(x - a).sum(1) - np.square(x - b).sum(1)
    size = np.square(x).sum(1) + np.square(a).sum(1)
    assert np.all(np.abs(gap[differ]) < 1e-6 * size[differ])


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("codes", [5, 700, 65_536])
def test_ties_go_to_the_lowest_code(codes, metric):
    vectors = torch.from_numpy(noise(5, 24, 6)).repeat(codes // 5 + 1, 1)[:codes]
    features = torch.from_numpy(noise(1001, 24, 7))
    expected = Codebook(vectors[:5], metric).nearest(features)
    assert torch.equal(Codebook(vectors, metric).nearest(features), expected)


@pytest.mark.parametrize("bits", [1, 6, 16])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_binary_codes_are_looked_up_by_their_signs(bits, metric):
    corners = BinarySpherical(bits).codes
    features = torch.from_numpy(noise(700, bits, 12))
    features[::3, bits // 2] = features[::7] = features[5, :] = 0
    features[9] = -0.0
    book = Codebook(corners, metric)
    found = book.nearest(features)
    # The products' answer: turned corners are none, and the angles are the same.
    turned = torch.linalg.qr(torch.randn(bits, bits, dtype=torch.float64))[0].float()
    if bits > 1:
        assert not is_binary(corners @ turned)
    first = (corners[None] @ features[:, :, None])[..., 0].argmax(1)
    assert found.dtype == torch.int64 and torch.equal(found, first)
    assert torch.equal(book.nearest(features.bfloat16().float()), book.nearest(features.bfloat16()))
    assert book.nearest(features[:0]).shape == (0,)
    assert torch.equal(Codebook(corners.half(), metric).nearest(features), found)


@pytest.mark.parametrize(
    "spoiled", ["order", "length", "missing", "added", "zero", "opposite", "low bit first"]
)
def test_other_codes_are_not_taken_for_corners(spoiled):
    codes = BinarySpherical(4).codes
    if spoiled == "order":
        codes[[3, 4]] = codes[[4, 3]]
    elif spoiled == "length":
        codes[5] *= 1.01
    elif spoiled == "missing":
        codes = codes[:-1]
    elif spoiled == "added":
        codes = torch.cat([codes, codes[:1]])
    elif spoiled == "zero":
        codes *= 0
    else:
        codes = codes.flip(1) if spoiled == "low bit first" else -codes
    features = torch.from_numpy(noise(500, 4, 13))
    found = Codebook(codes, "l2").nearest(features)
    assert torch.equal(found, (features @ codes.T - codes.square().sum(1) / 2).argmax(1))
    assert not is_binary(codes)


def test_codes_of_any_dtype_and_batches_of_any_size():
    codes, features = torch.from_numpy(noise(100, 32, 8)), torch.from_numpy(noise(501, 32, 9))
    book = Codebook(codes, "l2")
    whole = book.nearest(features)
    assert torch.equal(torch.cat([book.nearest(row[None]) for row in features]), whole)
    assert book.nearest(features[:0]).shape == (0,)
    # bf16 features, as from a bf16 encoder: looked up in fp32.
    half = features.bfloat16()
    assert torch.equal(book.nearest(half), book.nearest(half.float()))
    # The cosine does not depend on lengths.
    spherical = Codebook(codes, "cosine")
    scaled = features * torch.linspace(0.01, 100, 501)[:, None]
    assert torch.equal(spherical.nearest(scaled), spherical.nearest(features))
    with pytest.raises(ValueError, match="metric"):
        Codebook(codes, "euclidean")


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_kmeans_is_as_good_as_one_call_of_faiss(metric):
    features = clusters(8000, 16, centres=200, seed=10, spread=0.4)
    codes, objective = train_kmeans(features.copy(), 64, metric, seed=3, iterations=25)
    again, _ = train_kmeans(features.copy(), 64, metric, seed=3, iterations=25)
    other, _ = train_kmeans(features.copy(), 64, metric, seed=4, iterations=25)
    assert codes.shape == (64, 16) and codes.dtype == np.float32
    assert np.array_equal(codes, again)
    assert not np.array_equal(codes, other)

    spherical = metric == "cosine"
    if spherical:
        faiss.normalize_L2(features)
        np.testing.assert_allclose(np.linalg.norm(codes, axis=1), 1, atol=1e-5)
    single = faiss.Kmeans(
        16, 64, niter=25, seed=3, spherical=spherical, max_points_per_centroid=8000
    )
    single.train(features)

    def fit(centroids):
        """Mean squared distance, or mean cosine, to the nearest centroid, in float64."""
        products = features.astype(np.float64) @ centroids.T.astype(np.float64)
        if spherical:
            return products.max(1).mean()
        squares = np.square(centroids.astype(np.float64)).sum(1) - 2 * products
        return (np.square(features.astype(np.float64)).sum(1) + squares.min(1)).mean()

    ours, theirs = fit(codes), fit(single.centroids)
    # The objective is of the last assignment; the update after it can only improve the fit.
    if spherical:
        assert ours > 0.99 * theirs
        assert 0.99 * ours < objective <= ours * (1 + 1e-6)
    else:
        assert ours < 1.02 * theirs
        assert ours * (1 - 1e-6) <= objective < 1.01 * ours
    # Far better than after one iteration.
    drawn, _ = train_kmeans(features.copy(), 64, metric, seed=3, iterations=1)
    assert (fit(drawn) < ours) if spherical else (fit(drawn) > ours)


def test_whitened_kmeans_finds_clusters_in_weak_directions():
    """Clusters in 4 dimensions, beside 4 of far larger variance and 8 of faint noise."""
    random = np.random.default_rng(20)
    middle = 3 * random.standard_normal((20, 4))
    which = random.integers(20, size=8000)
    parts = (
        middle[which] + 0.1 * random.standard_normal((8000, 4)),
        50 * random.standard_normal((8000, 4)),
        0.1 * random.standard_normal((8000, 8)),
    )
    mixing = np.linalg.qr(random.standard_normal((16, 16)))[0]
    features = (np.concatenate(parts, 1) @ mixing + 7).astype(np.float32)

    def purity(codes, projection=None):
        """Share of frames of the likeliest cluster of their code."""
        book = Codebook(torch.from_numpy(codes), projection=projection)
        found = book.nearest(torch.from_numpy(features)).numpy()
        joint = np.zeros((20, 200))
        np.add.at(joint, (which, found), 1)
        return joint.max(0).sum() / 8000, found

    plain, _ = purity(train_kmeans(features.copy(), 200, metric="l2", seed=0, iterations=25)[0])
    codes, projection, objective = train_whitened(features, 200, 8, seed=0, iterations=25)
    whitened, found = purity(codes, torch.from_numpy(projection))
    assert whitened > 0.7 > 0.4 > plain
    # By the projection, the components have unit variance, and codes are means of their features.
    projected = features @ projection.T
    np.testing.assert_allclose(np.cov(projected.T), np.eye(8), atol=0.02)
    errors = np.square(projected - (codes @ projection.T)[found]).sum(1).mean()
    assert 0.9 * errors < objective < 1.1 * errors
    again = train_whitened(features, 200, 8, seed=0, iterations=25)
    assert np.array_equal(codes, again[0]) and np.array_equal(projection, again[1])
    with pytest.raises(ValueError, match="projection"):
        Codebook(torch.from_numpy(codes), "cosine", projection=torch.from_numpy(projection))


def test_kmeans_with_few_or_equal_frames():
    features = noise(50, 8, 11)
    with pytest.raises(ValueError, match="51 codes need as many frames; there are 50"):
        train_kmeans(features, 51, "l2", seed=0, iterations=2)
    codes, objective = train_kmeans(features, 50, "l2", seed=0, iterations=3)
    order = np.lexsort(codes.T), np.lexsort(features.T)
    np.testing.assert_allclose(codes[order[0]], features[order[1]], atol=1e-6)
    assert abs(objective) < 1e-5
    # Digital silence gives one and the same frame over and over.
    silence = np.concatenate([np.ones((400, 8), np.float32), features])
    for metric in ("l2", "cosine"):
        codes, _ = train_kmeans(silence.copy(), 40, metric, seed=0, iterations=5)
        assert np.isfinite(codes).all()


def stream(seed, frames=20_000):
    """Lengths of windows, some under a piece, that add up to `frames`."""
    random = np.random.default_rng(seed)
    while frames:
        length = min(frames, int(random.choice([7, 50, 120, 333])))
        yield length
        frames -= length


@pytest.mark.parametrize("limit", [1, 30, 50, 75, 1000, 10**6])
def test_a_reservoir_is_bounded_and_independent_of_the_order_of_answers(limit):
    reservoir, first, pieces = Reservoir(limit, seed=12), 0, []
    for length in stream(13, frames=5000):
        for number, frames in reservoir.draw(length):
            assert len(frames) <= PIECE_FRAMES and np.all(np.diff(frames) > 0)
            assert frames.min() >= 0 and frames.max() < length
            pieces.append((number, (first + frames)[:, None].astype(np.float32)))
            reservoir.put(*pieces[-1])
        first += length
        assert reservoir.features() is None or len(reservoir.features()) <= limit
    kept = reservoir.features()
    assert len(np.unique(kept)) == len(kept) >= min(limit, 5000) - PIECE_FRAMES
    if limit == 10**6:
        assert sorted(kept[:, 0]) == list(range(5000))  # all of a short stream
    # Encoders answer in any order, also with pieces that were dropped meanwhile.
    for seed in range(5):
        other = Reservoir(limit, seed=12)
        for length in stream(13, frames=5000):
            other.draw(length)
        for i in np.random.default_rng(seed).permutation(len(pieces)):
            other.put(*pieces[i])
        assert np.array_equal(other.features(), kept)
    assert Reservoir(limit, seed=12).features() is None


# 120 is a shard's share where there are many shards: two pieces, and a rest that is easily
# filled with whatever comes last.
@pytest.mark.parametrize("limit, runs", [(120, 400), (1000, 150)])
def test_a_reservoir_draws_evenly_from_the_whole_stream(limit, runs):
    bins = 10
    taken, in_short = np.zeros(bins), 0
    for run in range(runs):
        reservoir, first = Reservoir(limit, seed=[run, 14]), 0
        for length in stream(run):
            for number, frames in reservoir.draw(length):
                tags = np.stack([first + frames, np.full(len(frames), length)], 1)
                reservoir.put(number, tags.astype(np.float32))
            first += length
        position, length = reservoir.features().T
        taken += np.histogram(position, bins, (0, first))[0]
        in_short += np.sum(length == 7)
    # Frames are kept in pieces, so pieces are counted. A frame's chance is the same wherever it
    # lies: chi-square with 9 degrees of freedom is over 27.9 once in 1000.
    expected = taken.sum() / bins
    assert np.sum((taken - expected) ** 2 / expected) / PIECE_FRAMES < 27.9
    # A short window's chance is the same, up to what fits into the rest: 7 of every 510 frames.
    if limit == 1000:
        assert in_short / taken.sum() == pytest.approx(7 / 510, rel=0.3)
