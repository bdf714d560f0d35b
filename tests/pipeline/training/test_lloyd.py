"""k-means over all frames: exact sums, FAISS as a peer, and the job through a kill."""

import shutil
from collections import Counter

import faiss
import numpy as np
import pytest
import torch
from conftest import SPEECH, as_flags, json_lines, kill_when, run_here, run_job
from refusals import assert_refused
from safetensors.numpy import load_file

from pipeline.shards.inputs import Shard
from pipeline.training.lloyd.assignment import Nearest, Sums, next_codes
from pipeline.training.lloyd.feature_cache import FeatureCache, FeatureWriter
from tokenizer.codec.codebook import Codebook

RANDOM = np.random.default_rng(0)
# Frames around 40 centres of unlike size, so that codes differ in what they have.
FRAMES = (RANDOM.normal(size=(40, 48)) * 3)[RANDOM.integers(0, 40, 3000) ** 2 % 40]
FRAMES = (FRAMES + RANDOM.normal(size=FRAMES.shape)).astype(np.float32)


def one_pass(codes, frames, metric="l2", parts=1) -> Sums:
    """The sums of frames that come in `parts` chunks."""
    nearest, total = Nearest(codes, metric, None), Sums.zero(*codes.shape).whole()
    for part in np.array_split(frames, parts):
        sums = Sums.zero(*codes.shape)
        sums.add(part, nearest)
        total += sums.whole()
    return total


def test_sums_do_not_depend_on_order_or_chunks():
    codes = FRAMES[:64]
    whole, shuffled = one_pass(codes, FRAMES), RANDOM.permutation(len(FRAMES))
    other = one_pass(codes, FRAMES[shuffled], parts=7)
    assert np.array_equal(whole.totals, other.totals) and whole.value == other.value
    # Exact: as fractions of integers, not as floats that came out alike.
    place = Nearest(codes, "l2", None)(torch.from_numpy(FRAMES))[0].numpy()
    steps = np.rint(FRAMES.astype(np.float64) * 2**20).astype(object)
    assert whole.totals[3].tolist() == steps[place == 3].sum(0).tolist()


def test_sums_that_would_be_inexact_are_refused():
    codes = FRAMES[:2]
    with pytest.raises(ValueError, match="summed exactly"):
        one_pass(codes, FRAMES * 1e8)
    with pytest.raises(ValueError, match="summed exactly"):
        one_pass(codes, np.full((4, 48), np.nan, np.float32))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_each_pass_is_an_iteration_of_faiss(metric):
    codes = FRAMES[RANDOM.permutation(len(FRAMES))[:32]].copy()
    frames = FRAMES.copy()
    if metric == "cosine":
        faiss.normalize_L2(frames)
        faiss.normalize_L2(codes)
    settings = {"niter": 1, "spherical": metric == "cosine", "max_points_per_centroid": 10_000}
    peer = faiss.Kmeans(48, 32, **settings)
    theirs = codes
    for _ in range(5):
        distance = peer.train(frames, init_centroids=theirs) / len(frames)
        theirs = peer.centroids
        sums = one_pass(codes, FRAMES, metric)
        codes, empty = next_codes(codes, sums, metric)
        assert empty == 0 and sums.mean_value == pytest.approx(distance, rel=1e-5)
    assert np.abs(codes - theirs).max() < 1e-4


@pytest.mark.parametrize("kept", [0, 8, 40], ids=["plain", "few dimensions", "projected"])
def test_nearest_is_the_codebooks(kept):
    codes = FRAMES[:100]
    projection = RANDOM.normal(size=(kept, 48)).astype(np.float32) if kept else None
    found, distances = Nearest(codes, "l2", projection)(torch.from_numpy(FRAMES))
    matrix = None if projection is None else torch.from_numpy(projection)
    book = Codebook(torch.from_numpy(codes), "l2", projection=matrix)
    assert (found == book.nearest(torch.from_numpy(FRAMES))).float().mean() > 0.999
    space = np.eye(48, dtype=np.float32) if projection is None else projection
    apart = ((FRAMES - codes[found.numpy()]) @ space.T) ** 2
    assert np.allclose(
        distances.numpy(),
        apart.sum(1),
        rtol=1e-3,
        atol=1e-5 * np.square(FRAMES @ space.T).sum(1).max(),
    )


def test_empty_codes_take_halves_of_the_largest():
    codes = np.concatenate([FRAMES[:8], np.full((3, 48), 1e3, np.float32)])
    passes, empty = [], []
    for _ in range(4):
        passes.append(one_pass(codes, FRAMES))
        codes, found = next_codes(codes, passes[-1], "l2")
        empty.append(found)
    assert empty[0] == 3 and empty[-1] == 0 and (passes[-1].counts > 0).all()
    assert passes[-1].counts.max() < passes[0].counts.max() / 2
    assert passes[-1].mean_value < passes[0].mean_value / 2
    # With fewer different frames than codes nothing is split for ever.
    silence = np.zeros((5, 48), np.float32)
    _, empty = next_codes(codes, one_pass(codes, silence), "l2")
    assert empty == 10


def test_a_cache_keeps_to_its_room(tmp_path):
    cache = FeatureCache(folder=tmp_path / "cache", dimensions=48, most_bytes=700_000)
    one, two = (Shard(name, "", size=1) for name in ("one", "two"))
    kept = []
    for shard in (one, two):  # 576,000 bytes each
        writer = FeatureWriter(cache, shard)
        for part in np.array_split(FRAMES, 5):
            writer.add(part)
        kept.append(writer.finish(Counter(empty=2)))
    assert kept == [True, False] and cache.has(one) and not cache.has(two)
    assert cache.used() <= 700_000 and not list(cache.folder.glob("*.partial"))
    rejected: Counter[str] = Counter()
    assert np.array_equal(np.concatenate(list(cache.read(one, rejected))), FRAMES)
    assert rejected == {"empty": 2}
    path = cache.file(one)
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(ValueError, match="damaged"):
        list(cache.read(one, rejected))
    assert not cache.has(one)


def flags(output, *more) -> list:
    """The job's flags."""
    given = {"input": SPEECH, "encoder": "wavlm-tiny", "layer": 2, "codebook-size": 200}
    given |= {"passes": 3, "iterations": 2, "cpus-per-encoder": 1, "output": output}
    return [*as_flags(given), *more]


def passes_of(output) -> list[dict]:
    """The lines of the log."""
    return json_lines(output / "training/log.jsonl")


@pytest.mark.slow
def test_killed_and_run_again_with_other_workers(tmp_path):
    """Two encoders and a kill give the bytes that one encoder and a cache gave without."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    cache = ("--cache-gb", 1, "--cache-folder", tmp_path / "cache")
    done = run_job("train_tokenizer", *flags(whole, "--all-frames", "--encoders", 1, *cache))
    assert done.returncode == 0, done.stderr
    log = passes_of(whole)
    assert [line["pass"] for line in log] == [1, 2, 3]
    assert log[0]["objective"] > log[1]["objective"] > log[2]["objective"]
    assert "pass 2/3: mean squared distance" in done.stderr and "min left" in done.stderr
    assert not list((tmp_path / "cache").iterdir())

    again = flags(killed, "--all-frames", "--encoders", 2)
    kill_when(lambda: bool(passes_of(killed)), "train_tokenizer", *again)
    assert not (killed / "config.json").exists()
    done = run_job("train_tokenizer", *again)
    assert done.returncode == 0 and "pass 1/3" not in done.stderr, done.stderr
    assert [line["objective"] for line in passes_of(killed)] == [x["objective"] for x in log]
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(one[name].tobytes() == other[name].tobytes() for name in {*one, *other})

    shutil.rmtree(whole / "training")
    assert_refused(run_here("train_tokenizer", *flags(whole, "--all-frames")), "config.json")
    assert_refused(run_here("train_tokenizer", *flags(tmp_path / "x")), "--passes", "--all-frames")
