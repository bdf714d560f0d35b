"""Reading, decoding and encoding go on at the same time, in order, and no further than wanted."""

import io
import threading
import time

import numpy as np
import pytest
import soundfile
from tars import OneWay, tar

from pipeline.shards.ahead import Ahead, mapped_in_order
from pipeline.shards.reading import read_utterances
from tokenizer.audio.reasons import TRUNCATED


def test_items_are_made_while_others_are_used_but_not_too_many():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    with Ahead(items(), most=3) as ahead:
        taken = []
        for number in ahead:
            taken.append(number)
            deadline = time.monotonic() + 60
            # Three wait, and the next one is made and waits for room.
            while len(made) < min(20, len(taken) + 4) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(made) == min(20, len(taken) + 4)
    assert taken == list(range(20)) and ahead.ended > 0


def test_an_error_comes_in_its_turn_and_an_end_stops_the_thread():
    def failing():
        yield 1
        raise OSError("the store went away")

    with Ahead(failing(), most=9) as ahead:
        items = iter(ahead)
        assert next(items) == 1
        with pytest.raises(OSError, match="went away"):
            next(items)
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with pytest.raises(RuntimeError, match="an encoder"), Ahead(endless(), most=2) as ahead:
        next(iter(ahead))
        raise RuntimeError("an encoder failed")
    assert closed.is_set() and ahead.blocked > 0


def test_one_large_item_fits_where_nothing_waits():
    with Ahead(iter([50, 60]), most=10, size=float) as ahead:
        assert list(ahead) == [50, 60]


def test_several_threads_keep_the_order_and_work_at_the_same_time():
    together = threading.Barrier(3)

    def work(number: int) -> int:
        if number >= 10:
            together.wait(timeout=60)  # ends only if three are at it
        return number * number

    # One thread for the first samples, three when the other shards have ended.
    wanted = iter([1] * 10 + [3] * 12)
    results = list(mapped_in_order(work, range(22), lambda: next(wanted), most=8))
    assert results == [(number, number * number) for number in range(22)]
    with pytest.raises(ValueError):
        list(mapped_in_order(int, ["1", "x", "2"], lambda: 2, most=2))


def test_a_shard_is_the_same_by_any_number_of_threads():
    random, members = np.random.default_rng(0), []
    for number in range(30):
        file = io.BytesIO()
        sound = random.standard_normal(random.integers(500, 40_000)) / 10
        soundfile.write(file, sound, 16_000 if number % 3 else 22_050, format="FLAC")
        data = file.getvalue()
        members.append((f"{number}.flac", data[: len(data) // 2] if number % 7 == 3 else data))

    def read(threads):
        utterances = read_utterances(OneWay(tar(*members)), 20_000, threads=lambda: threads)
        return [
            (sample.key, reason, utterance and (utterance.mean, b"".join(utterance.blocks())))
            for sample, utterance, reason in utterances
        ]

    alone = read(1)
    assert len(alone) == 30 and {reason for _, reason, _ in alone} == {None, TRUNCATED}
    assert read(4) == alone
