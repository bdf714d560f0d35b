"""A short form of every fault of `make faults`."""

import shutil
from collections.abc import Iterable

import pytest

from faults import disks, fuzz, inputs, kills, races, s3_faults, training_kills
from faults.checks import Result, World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two small shards."""
    return World(tmp_path_factory.mktemp("faults"), shards=2, samples=4)


def check(results: Iterable[Result], least: int = 1) -> None:
    """Every result is good, and as many as expected were tried."""
    tried = [result for result in results if not result.skipped]
    assert len(tried) >= least
    bad = [result.line() for result in tried if result.problems]
    assert not bad, "\n".join(bad)


@pytest.mark.slow
def test_s3_that_fails(world):
    cases = [("GET", "short"), ("PUT", "lost answer")]
    check(s3_faults.run(world, cases, uploads=("reset",), rates=(0.2,)), least=3)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["progress board", "raylet"])
def test_a_process_is_killed(world, victim):
    """Driver, shard task and encoder: see tests/pipeline/test_resume.py."""
    check(kills.run(world, rounds=1, victims=(victim,), deadly=False))


@pytest.mark.slow
def test_a_shard_that_kills_its_worker(world):
    check(kills.run(world, victims=()))


@pytest.mark.slow
def test_an_input_is_cut_while_it_is_read(world):
    check(inputs.run(world, ("truncated",), between=False))


@pytest.mark.slow
def test_an_input_changes_between_runs(world):
    check(inputs.run(world, ()))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("mount"), reason="nothing to mount a small disk with")
def test_a_full_disk(world):
    results = list(disks.run(world, ("OUTPUT",)))
    if results[0].skipped:
        pytest.skip(results[0].skipped)
    check(results)


@pytest.mark.slow
def test_two_jobs_claim_one_output(tmp_path):
    check(races.run(tmp_path, pairs=20), least=2)


@pytest.mark.slow
def test_mutated_inputs():
    check(fuzz.run(each=1400), least=len(fuzz.TARGETS))


@pytest.mark.slow
def test_a_killed_training(world):
    """Language models: see tests/lm/test_train_lm.py. Tokenizers: see test_distill.py."""
    check(training_kills.run(world, ("train_vocoder",), kills=1))
