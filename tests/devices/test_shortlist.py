"""The lookup of large codebooks on a GPU, run on the CPU: the codes are those of all scores."""

import numpy as np
import pytest
import torch

from tokenizer.codec.codebook import Codebook


def noise(n, dim, seed):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("spread, mean", [(1.0, 0.0), (0.3, 3.0), (1e-3, 0.0)])
def test_a_shortlist_leaves_no_nearest_code_out(metric, spread, mean):
    """Of a GPU's large codebooks: what bf16 does not settle, all scores in fp32 do."""
    middle = noise(1, 160, 8) * mean
    centres = noise(500, 160, 9) + middle
    codes = np.repeat(centres, 36, 0)[:17_990] + spread * noise(17_990, 160, 10)
    features = torch.from_numpy(np.repeat(centres, 1, 0) + spread * noise(500, 160, 11))
    codes = torch.from_numpy(codes)
    wanted = Codebook(codes, metric).nearest(features)
    ours = Codebook(codes, metric, shortlist=True)
    found = ours.lookup(features)
    sure = found >= 0
    # Codes that are closer to each other than bf16 can tell are left to fp32. Angles to codes far
    # from the origin are such.
    if spread < 0.01:
        assert not sure.any()
    elif metric == "l2" or not mean:
        assert sure.float().mean() > 0.9
    x, table = features.double(), codes.double()
    if metric == "cosine":
        table = table / table.norm(dim=1, keepdim=True)
    for result in (torch.where(sure, found, wanted), ours.nearest(features)):
        # Where they differ, fp32 cannot tell which is nearer.
        scores = [
            (x * table[i]).sum(1) - (table[i].square().sum(1) / 2 if metric == "l2" else 0)
            for i in (result, wanted)
        ]
        assert torch.all((scores[0] - scores[1]).abs() <= 1e-5 * x.square().sum(1))
        assert (result == wanted).float().mean() > 0.99


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("codes", [5, 700, 17_000])
def test_ties_go_to_the_lowest_code(codes, metric):
    vectors = torch.from_numpy(noise(5, 24, 6)).repeat(codes // 5 + 1, 1)[:codes]
    features = torch.from_numpy(noise(300, 24, 7))
    expected = Codebook(vectors[:5], metric).nearest(features)
    ours = Codebook(vectors, metric, shortlist=True)
    assert torch.equal(ours.nearest(features), expected)
