"""Batches find an encoder that takes them, whatever becomes of the others."""

import os
import re
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from ray_cluster import end_ray
from stub_encoders import Lengths, SmallLengths

from pipeline.cluster.batch_size import find_batch_seconds
from pipeline.cluster.connect import connect
from pipeline.cluster.dispatch import Dispatcher, DoesNotFit
from pipeline.cluster.encoder_list import EncoderList
from pipeline.settings import BatchLimits

LIMITS = BatchLimits(size=8, samples=128_000)


@pytest.fixture(scope="module")
def cluster():
    """This process has a Ray of its own, whose workers find this folder's modules."""
    folder = tempfile.mkdtemp(prefix="wm-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.delenv("RAY_ADDRESS", raising=False)
        try:
            connect()
            yield
            ray.shutdown()
        finally:
            end_ray(folder)


class Encoding:
    """Encoders of a class, listed; and a dispatcher for them in this process."""

    def __init__(self, kind: type, count: int, call_seconds: float = 60):
        self.list = ray.remote(num_cpus=0)(EncoderList).remote()
        self.actors = [ray.remote(num_cpus=0)(kind).remote() for _ in range(count)]
        for number, actor in enumerate(self.actors):
            ray.get(self.list.add.remote(number, actor, f"node-{number}"))
        self.dispatcher = Dispatcher(self.list, "encode", task=0, call_seconds=call_seconds)

    def lengths(self, windows: list[np.ndarray]) -> list[int]:
        """What comes back for each window, in their order."""
        results = dict(self.dispatcher.encode_all(enumerate(windows), LIMITS))
        return [int(results[number][0]) for number in range(len(windows))]

    def lost(self) -> dict[int, str]:
        """The encoders that were given up, and why."""
        return ray.get(self.list.look.remote()).lost


def windows_of(*lengths: int) -> list[np.ndarray]:
    return [np.zeros(length, np.float32) for length in lengths]


def test_a_batch_that_does_not_fit_is_split(cluster):
    encoding = Encoding(SmallLengths, 1)
    lengths = [3_000, 50_000, 16_000, 16_000, 60_000, 9_000] * 3
    assert encoding.lengths(windows_of(*lengths)) == lengths
    assert encoding.lost() == {}
    with pytest.raises(DoesNotFit, match=r"a window of 4.4 s cannot be encoded even alone: .*CUDA"):
        encoding.lengths(windows_of(3_000, 70_000))


@pytest.mark.parametrize("first", [-1, -2])
def test_a_window_that_kills_encoders_is_named(first, cluster):
    encoding = Encoding(Lengths, 6)
    windows = windows_of(*[16_000] * 4)
    windows[2][0] = first
    with pytest.raises(DoesNotFit, match=r"a window of 1.0 s .* 4 encoders died with it"):
        encoding.lengths(windows)
    assert len(encoding.lost()) in (4, 5)


def test_an_encoder_that_does_not_answer_is_given_up(cluster):
    encoding = Encoding(Lengths, 2, call_seconds=2)
    stopped = ray.get(encoding.actors[0].process.remote())
    os.kill(stopped, signal.SIGSTOP)
    lengths = [16_000] * 64
    assert encoding.lengths(windows_of(*lengths)) == lengths
    (why,) = encoding.lost().values()
    # On a busy machine the task looks later.
    assert int(re.match(r"no answer in (\d+) s", why)[1]) >= 2, why
    # It is ended like this, so that it does not keep its GPU.
    ray.kill(encoding.actors[0])
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{stopped}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{stopped}")


def test_auto_finds_the_largest_batch_that_fits():
    # Of 240 windows at first half is tried, and half of that: seven fit, with 56,000 samples.
    assert find_batch_seconds(SmallLengths().encode, 0.5) == 3.5


def test_tasks_share_encoders():
    """The tasks are told encoders by load, those on their own node first."""
    encoders = EncoderList()
    for number in range(4):
        encoders.add(number, f"handle {number}", "ab"[number // 2])

    def ask(task: int, node: str, lost: dict[int, str] | None = None) -> set[int]:
        answer = encoders.ask(task, node, lost=lost or {}, waited=0.0, spent=0.0)
        return set(answer.encoders)

    assert ask(0, "a") == {0, 1, 2, 3}  # alone
    first, second = ask(1, "b"), ask(0, "a")
    assert (first, second) == ({2, 3}, {0, 1})
    own = [ask(task, "ab"[task % 2]) for task in range(8)]
    own = [ask(task, "ab"[task % 2]) for task in range(8)]
    assert all(len(numbers) == 1 for numbers in own)
    assert all(numbers <= ({2, 3} if task % 2 else {0, 1}) for task, numbers in enumerate(own))
    # An encoder that one task gives up is nobody's; one that joins is taken on.
    assert ask(0, "a", {0: "died"}) == {1}
    assert encoders.look().lost == {0: "died"}
    encoders.add(4, "handle 4", "a")
    assert {4} in [ask(task, "a") for task in (2, 4, 6)]
    for task in range(1, 8):
        encoders.end(task)
    assert ask(0, "a") == {1, 2, 3, 4}
