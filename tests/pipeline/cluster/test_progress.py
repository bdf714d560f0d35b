"""What shard tasks write, and what the driver reads: totals, where time goes, threads to use."""

import pytest

from pipeline.cluster.progress import ProgressBoard, TaskTime


def test_totals_are_of_each_shards_last_try():
    board = ProgressBoard()
    board.write("a", 100, 10.0, TaskTime(3.0, 1.0, 0.0))
    board.write("a", 200, 20.0, TaskTime(6.0, 2.0, 0.0))
    board.write("b", 50, 5.0, TaskTime(0.0, 0.0, 4.0))
    assert board.totals() == (250, 25.0, TaskTime(6.0, 2.0, 4.0))
    # The task was lost, and begins again.
    board.write("a", 0, 0.0, TaskTime())
    done, seconds, spent = board.totals()
    assert (done, seconds) == (50, 5.0) and spent.limit() == "storage"
    board.finish("b", 60, 6.0, TaskTime(0.0, 0.0, 5.0))
    assert board.totals() == (60, 6.0, TaskTime(0.0, 0.0, 5.0)) and set(board.shards) == {"a"}
    assert spent.shares() == pytest.approx({"decode": 0.0, "encode": 0.0, "storage": 1.0})


def test_a_task_is_told_how_many_threads_it_may_use():
    board = ProgressBoard()
    assert board.write("a", 0, 0.0) == 1
    board.allow(8)
    assert board.write("a", 0, 0.0) == 8
