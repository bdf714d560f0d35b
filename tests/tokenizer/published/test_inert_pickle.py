"""Pickles and joblib files are read as data: arrays come out, and nothing in the file is run."""

import gzip
import pickle
import zlib

import numpy as np
import pytest
from models import Bomb
from reference.drawn import REFERENCE

from tokenizer.errors import UsageError
from tokenizer.published.inert_pickle import Inert, plain, read_pickle
from tokenizer.published.kmeans import read_centroids

# scikit-learn 1.9's MiniBatchKMeans, by joblib 1.6 with compress=3.
KMEANS = REFERENCE / "kmeans.joblib"


def test_joblib_files_of_scikit_learn(tmp_path):
    compressed = KMEANS.read_bytes()
    raw = zlib.decompress(compressed)
    centroids = read_centroids(KMEANS)
    # Of its own fit: its labels of the first frames, and the mean distance, say that all is read.
    model = read_pickle(raw)
    assert type(model).__name__ == "MiniBatchKMeans" and isinstance(model, Inert)
    assert plain(model.state["labels_"]).dtype == np.int32
    assert centroids.shape == (model.state["n_clusters"], model.state["n_features_in_"])
    for content in (raw, gzip.compress(raw)):
        (tmp_path / "file").write_bytes(content)
        np.testing.assert_array_equal(read_centroids(tmp_path / "file"), centroids)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_pickles_of_arrays(tmp_path, protocol, dtype, order):
    array = np.array(np.arange(12).reshape(4, 3) / 8, dtype, order=order)
    (tmp_path / "file").write_bytes(pickle.dumps(array, protocol))
    centroids = read_centroids(tmp_path / "file")
    assert centroids.dtype == np.float32
    np.testing.assert_array_equal(centroids, array)


def call(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a function with a text."""
    text = argument.encode()
    return b"\x80\x04c%s\n%s\nX%c\0\0\0%s\x85R." % (
        module.encode(),
        name.encode(),
        len(text),
        text,
    )


@pytest.mark.parametrize(
    "module, name",
    [("posix", "system"), ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load")],
)
def test_other_functions_are_refused_by_name(module, name):
    with pytest.raises(UsageError, match=f"'{module}.{name}'"):
        read_pickle(call(module, name, "1"))


def test_nothing_of_scikit_learn_or_numpy_is_called(tmp_path):
    """NumPy has functions that run text; they are only records here."""
    made = tmp_path / "made"
    code = f"open({str(made)!r}, 'w')"
    content = call("numpy.testing._private.utils", "runstring", code)
    assert read_pickle(content).arguments == (code,)
    with pytest.raises(UsageError, match="pathlib"):
        read_pickle(pickle.dumps({"cluster_centers_": np.zeros((2, 2)), "x": Bomb(made)}))
    assert not made.exists()


def test_damage_is_one_error():
    """Whatever byte is lost or wrong, the error is a line about the file."""
    raw = zlib.decompress(KMEANS.read_bytes())
    random = np.random.RandomState(0)
    for cut in random.randint(0, len(raw), 40):
        with pytest.raises(UsageError):
            read_pickle(raw[:cut])
    for place in random.randint(0, 700, 200):
        wrong = bytearray(raw)
        wrong[place] = random.randint(256)
        try:
            read_pickle(bytes(wrong))
        except UsageError as error:
            assert "\n" not in str(error)


def test_an_array_of_another_size_than_it_says():
    content = pickle.dumps(np.zeros((4, 3)), 4)
    wrong = content.replace(b"K\x04K\x03\x86", b"K\x05K\x03\x86")
    assert wrong != content
    with pytest.raises(UsageError, match="ends too early"):
        read_pickle(wrong)


def test_a_bomb_of_zeros_is_bounded(monkeypatch):
    monkeypatch.setattr("tokenizer.published.inert_pickle.MOST_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="decompresses to over"):
        read_pickle(zlib.compress(bytes(1 << 21)))
