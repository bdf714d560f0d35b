"""fast_abx.py: fastabx, where it is installed, gives the figures of our own ABX."""

import numpy as np
import pytest

from pipeline.evaluation.abx import abx_errors
from pipeline.evaluation.abx_items import Item
from pipeline.evaluation.fast_abx import fastabx_errors, fastabx_version

if fastabx_version() is None:
    pytest.skip("fastabx is not installed: it needs Python 3.12", allow_module_level=True)


def test_fastabx_and_ours_agree():
    random = np.random.default_rng(1)
    centroids = random.normal(size=(64, 8)).astype(np.float32)
    codes = {key: random.integers(0, 64, 400) for key in ("u", "v", "w")}
    items = [
        Item(
            key,
            first=first,
            stop=first + int(random.integers(1, 9)),
            phone="ABC"[random.integers(3)],
            context=(str(first % 2), "c"),
            speaker=key,
        )
        for first in range(0, 390, 13)
        for key in codes
    ]
    items += [items[0]._replace(key="nothing"), items[0]._replace(first=500, stop=510)]
    ours = abx_errors(items, codes, centroids, max_group=99)
    theirs = fastabx_errors(items, codes, centroids, max_group=99)
    for name in ("within", "across"):
        value = getattr(theirs, name).value
        assert value == pytest.approx(getattr(ours, name).value, abs=1e-3)
    assert theirs.counts == ours.counts
    assert 0.2 < theirs.within.value < 0.8
    assert theirs.counts["abx_segments_without_frame"] == 1


def test_no_triple_is_undefined():
    items = [Item("u", first=0, stop=2, phone="A", context=("p", "n"), speaker="s")] * 2
    for codes in ({"u": np.array([0, 1])}, {}):
        errors = fastabx_errors(items, codes, np.eye(2))
        assert (errors.within.value, errors.across.value) == (None, None)
