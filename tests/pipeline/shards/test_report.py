"""Reports that are damaged, or of an input that has changed."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_job

from pipeline.shards import totals
from pipeline.shards.inputs import Shard
from pipeline.shards.report import SCHEMA, ShardReport, changed_inputs, gather, is_summed_up
from tokenizer.errors import UsageError
from tokenizer.storage.folder import Folder
from tokenizer.storage.token_folder import TokenFolder


@pytest.fixture
def output(tmp_path) -> Folder:
    """An OUTPUT with the reports of two shards."""
    (tmp_path / "reports").mkdir()
    record = {"tokenizer": None, "codebook_size": 8, "tokens_per_second": 50}
    (tmp_path / "run.json").write_text(json.dumps(record))
    for name in ("a", "b"):
        report = ShardReport(name, 8, version=(7, "mark"))
        report.ok("two", 0.2, np.arange(4), place=3)
        report.reject("one", "not_audio", place=1)
        report.write(tmp_path / f"reports/{name}.parquet")
    return Folder(str(tmp_path))


def damage(content: bytes, how: str) -> bytes:
    """A report that no reader takes, or whose content is not a report's."""
    file = pa.BufferOutputStream()
    if how == "other columns":
        pq.write_table(pa.table({"key": ["a"]}), file)
    elif how == "no metadata":
        pq.write_table(pa.Table.from_pylist([], SCHEMA), file)
    else:
        return {"empty": b"", "cut": content[:-20], "noise": content[::-1]}[how]
    return file.getvalue().to_pybytes()


@pytest.mark.parametrize("how", ["empty", "cut", "noise", "other columns", "no metadata"])
def test_a_damaged_report_is_named(output, tmp_path, how):
    path = tmp_path / "reports/b.parquet"
    path.write_bytes(damage(path.read_bytes(), how))
    named = re.escape("reports/b.parquet is damaged")
    with pytest.raises(UsageError, match=named) as refused:
        gather(output, write_manifest=True)
    assert "\n" not in str(refused.value) and not (tmp_path / "manifest.parquet").exists()
    if how != "no metadata":
        with pytest.raises(UsageError, match=named):
            TokenFolder.open(str(tmp_path)).report("b", ["status", "num_tokens"])


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"shards": []}', "[" * 100_000])
def test_a_damaged_record_is_one_line_and_a_damaged_summary_none(output, tmp_path, text):
    (tmp_path / "summary.json").write_text('{"shards": 2}')
    assert is_summed_up(output, 2) and not is_summed_up(output, 3)
    (tmp_path / "summary.json").write_text(text)
    assert not is_summed_up(output, 2)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"run\.json") as refused:
        TokenFolder.open(str(tmp_path))
    assert "\n" not in str(refused.value)
    if "shards" not in text:
        with pytest.raises(UsageError, match=r"its run\.json is not a JSON object"):
            output.claim_run("run.json", {"tokenizer": None})


def test_rows_are_in_the_order_of_their_members(output, tmp_path):
    gather(output, write_manifest=True)
    rows = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert [(row["shard"], row["key"]) for row in rows] == [
        ("a", "one"),
        ("a", "two"),
        ("b", "one"),
        ("b", "two"),
    ]


def test_inputs_that_have_changed_since(output):
    def shard(name: str, size: int, version: str) -> Shard:
        return Shard(name, f"file:///{name}.tar", size=size, version=version)

    same = [shard("a", 7, "mark"), shard("b", 7, "mark"), shard("new", 7, "mark")]
    assert changed_inputs(output, same) == gather(output, False, same)["changed"] == []
    for other in (shard("b", 8, "mark"), shard("b", 7, "other")):
        shards = [same[0], other]
        assert changed_inputs(output, shards) == gather(output, False, shards)["changed"] == ["b"]
    unknown = [shard("b", 8, "")]
    assert changed_inputs(output, unknown) == []


def test_the_manifest_has_few_row_groups(output, tmp_path, monkeypatch):
    """A reader holds one group; a footer of a group for each shard would be what it cannot hold."""
    for number in range(20):
        report = ShardReport(f"c{number:02d}", 8)
        for row in range(3):
            report.ok(f"{number}-{row}", 0.2, np.arange(4))
        report.write(tmp_path / f"reports/c{number:02d}.parquet")
    whole = gather(output, write_manifest=True)
    before = pq.read_table(tmp_path / "manifest.parquet")
    assert pq.read_metadata(tmp_path / "manifest.parquet").num_row_groups == 1
    monkeypatch.setattr(totals, "GROUP_ROWS", 25)
    monkeypatch.setattr(totals, "REPORTS_IN_PART", 4)
    again = gather(output, write_manifest=True)
    assert again.pop("audio_hours") == pytest.approx(whole.pop("audio_hours")) and again == whole
    file = pq.ParquetFile(tmp_path / "manifest.parquet")
    groups = range(file.metadata.num_row_groups)
    assert [file.metadata.row_group(group).num_rows for group in groups] == [25, 25, 14]
    assert file.read() == before and whole["samples"] == 64 and whole["silent"] == 0


def test_ray_tasks_read_reports():
    """The bench at a small size: the job's own loop, and a manifest of three parts."""
    size = ("--shards", 20, "--encoders", 8, "--reports", 600, "--rows", 3)
    done = run_job("bench/driver", *size)
    assert done.returncode == 0, done.stderr
    assert " 600        1,800 " in done.stdout
