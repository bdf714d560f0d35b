"""Nodes are taken from a run and given to it: it ends in the same bytes, or says why it cannot."""

import shutil
import time
from pathlib import Path

import pytest
from conftest import SPEECH
from ray_nodes import Nodes, Run, own_nodes

SHARDS = 20


@pytest.fixture(scope="module")
def nodes():
    """A cluster of its own, with a head alone."""
    with own_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Copies of tests/speech under other names: enough shards to lose nodes between."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(SHARDS):
        shutil.copy(SPEECH / f"speech-{number % 3:06d}.tar", folder / f"copied-{number:06d}.tar")
    return folder


def check_bytes(run: Run, good) -> None:
    """Every shard is there, with the bytes of a run on one machine that lost nothing."""
    tars = run.tars()
    assert len(tars) == SHARDS
    for number in range(SHARDS):
        mine = tars[f"shards/copied-{number:06d}.tar"]
        theirs = (good.output / f"shards/speech-{number % 3:06d}.tar").read_bytes()
        # A shard's own name is in it, and as long as the other's.
        own, other = b"copied-%06d" % number, b"speech-%06d" % (number % 3)
        assert mine.replace(own, other) == theirs


@pytest.mark.slow
def test_nodes_are_lost_and_others_join(nodes: Nodes, source, tokenizer, good, tmp_path):
    """A run that loses its last node ends; the same command goes on with other nodes."""
    last = nodes.add()
    run = nodes.run(source, tokenizer, tmp_path / "out")
    run.wait_for(lambda: run.finished() >= 2)
    nodes.kill(last)
    began = time.monotonic()
    status, said = run.end()
    assert status == 1 and time.monotonic() - began < 60
    error = said.strip().splitlines()[-1]
    assert error.startswith("error: no encoder is left") and "run the same command again" in error
    before = run.finished()
    assert 2 <= before < SHARDS

    first, second = nodes.add(), nodes.add()
    run = nodes.run(source, tokenizer, tmp_path / "out")
    run.wait_for(lambda: run.finished() >= before + 2)
    nodes.kill(first)
    run.wait_for(lambda: run.finished() >= before + 6)
    nodes.add()
    nodes.kill(second)
    # So what is left is done by the new node alone.
    status, said = run.end()
    assert status == 0, said
    assert said.count("encoders lost: 1") == 2
    check_bytes(run, good)
