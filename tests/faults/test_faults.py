"""A short form of every fault of `make faults`, most of them in one Ray."""

import re
import shutil
from collections.abc import Iterable

import pytest
from conftest import ROOT

from faults import Result, containers, disks, fuzz, inputs, kills, races, s3_faults, training_kills
from faults.checks import World
from faults.runs import session


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two small shards, and a Ray for the jobs."""
    with session(tmp_path_factory.mktemp("session")) as shared:
        yield World(tmp_path_factory.mktemp("faults"), shards=2, samples=3, session=shared)


def check(results: Iterable[Result], least: int = 1) -> None:
    """Every result is good, and as many as expected were tried."""
    tried = [result for result in results if not result.skipped]
    assert len(tried) >= least
    bad = [result.line() for result in tried if result.problems]
    assert not bad, "\n".join(bad)


@pytest.mark.slow
def test_s3_that_fails(world):
    """GET, PUT, LIST and HEAD at once, and an upload in parts."""
    check(s3_faults.run(world, [], uploads=("lost answer",), rates=(0.2,)), least=2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["progress board", "raylet"])
def test_a_process_is_killed(world, victim):
    """Driver, shard task and encoder: see tests/pipeline/test_resume.py."""
    # On a quick machine the small job is done in two seconds.
    check(kills.run(world, rounds=1, victims=(victim,), most=1, latest=0.4, deadly=False))


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
def test_two_jobs_claim_one_output(world, tmp_path):
    check(races.run(tmp_path, pairs=20, s3=world.session.s3), least=2)


@pytest.mark.slow
def test_mutated_inputs():
    check(fuzz.run(each=1400), least=len(fuzz.TARGETS))


@pytest.mark.slow
def test_a_killed_training(world):
    """Preference tuning, which needs no Ray. Language models: see tests/lm/test_train_lm.py;
    tokenizers and encoders: see tests/pipeline/training."""
    check(training_kills.run(world, ("align_lm",), kills=1))


def test_no_container_loses_speech_and_is_ok(monkeypatch):
    """The table of containers and damages, with fewer cuts."""
    monkeypatch.setattr(containers, "CUTS", containers.CUTS[2::5])
    rows = list(containers.table(*containers.speech()))
    assert len(rows) > 200
    assert [row for row in rows if row.lost] == []
    assert [row for row in rows if row.damage == "whole" and row.outcome != "ok"] == []
    harmless = ("ID3v2 before", "ID3v1 behind", "newline behind")
    refused = {
        (row.form, row.damage) for row in rows if row.damage in harmless and row.seconds is None
    }
    assert refused == set()
    # The table in the docs has these kinds, and no others.
    page = (ROOT / "docs/containers.md").read_text()
    assert {row.form for row in rows} == set(re.findall(r"^\| (.+?) \| ok", page, re.M))
