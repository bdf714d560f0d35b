"""jobs/import_tokens.py from outside: JSON lines in, token shards out, every line accounted for."""

import gzip
import json
import tracemalloc

import fsspec
import numpy as np
import pytest
from conftest import read_tokens, rows_of, run_job
from refusals import assert_refused_after_bar
from stores import snapshot

from pipeline.shards.inputs import find_files
from pipeline.tokenize import unit_lines
from pipeline.tokenize.unit_lines import IMPORT_REASONS

GOOD = {
    "speaker/a": {"units": [3, 3, 299], "speaker": 7, "nested": {"b": [None]}},
    "b": {"units": [0]},
    "12": {"units": [5] * 40},
    "c_flac": {"units": [1, 2]},
}
# Lines that cannot be taken, with the key and the reason that their row has.
BAD = [
    ('{"key": "b", "units": [1]}', "b", "duplicate_key"),
    ('{"units": [1]}', "two.jsonl:2", "no_key"),
    ('{"key": {}, "units": [1]}', "two.jsonl:3", "no_key"),
    ('{"key": "d", "units": []}', "d", "no_units"),
    ('{"key": "d"}', "d", "no_units"),
    ('{"key": "d", "units": [1, -1]}', "d", "negative_unit"),
    ('{"key": "d", "units": [1, 2.0]}', "d", "units_not_integers"),
    ('{"key": "d", "units": [true]}', "d", "units_not_integers"),
    ('{"key": "d", "units": "1 2"}', "d", "units_not_integers"),
    ('{"key": "d", "units": [99999999999999999999999]}', "d", "unit_over_codebook"),
    ('{"key": "../d", "units": [1]}', "../d", "bad_name"),
    ('{"key": "/d", "units": [1]}', "/d", "bad_name"),
    ('{"key": "\\ud800", "units": [1]}', "\\ud800", "bad_name"),
    ('{"key": "d", "units": [1]', "two.jsonl:14", "not_json"),
    ("[1, 2]", "two.jsonl:15", "not_json"),
]


@pytest.fixture
def lines(tmp_path):
    """A folder of a gzipped file, a plain one, and one that is cut."""
    folder = tmp_path / "lines"
    folder.mkdir()
    rows = [
        {"key": int(key) if key == "12" else key.replace("_", "."), **GOOD[key]} for key in GOOD
    ]
    with gzip.open(folder / "one.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "two.jsonl").write_text("".join(f"{line}\n" for line, *_ in BAD) + "\n\n")
    return folder


def test_lines_become_shards_and_every_bad_one_has_its_row(lines, tmp_path):
    output = tmp_path / "tokens"
    flags = ("--input", lines, "--output", output, "--shard-tokens", 40)
    done = run_job("import_tokens", *flags, "--max-reject-rate", 0.9)
    assert done.returncode == 0, done.stderr
    found = {}
    for path in sorted((output / "shards").glob("*.tar")):
        found |= {
            key: (tokens, about, path.stem) for key, (tokens, about) in read_tokens(path).items()
        }
    assert list(found) == list(GOOD)
    for key, (tokens, about, shard) in found.items():
        row = dict(GOOD[key])
        np.testing.assert_array_equal(tokens, row.pop("units"))
        if key == "c_flac":
            row["key"] = "c.flac"
        assert tokens.dtype == np.uint16
        assert about == {
            "duration_s": len(tokens) / 50,
            "sample_rate": 16000,
            "num_tokens": len(tokens),
            "shard": shard,
            "metadata": row,
        }
    assert {shard for *_, shard in found.values()} == {"shard-000000", "shard-000001"}
    rows = rows_of(output / "manifest.parquet")
    rejected = [(row["key"], row["reason"]) for row in rows if row["status"] == "rejected"]
    assert rejected == [(key, reason) for _, key, reason in BAD]
    assert len(rows) == len(BAD) + len(GOOD)
    run = json.loads((output / "run.json").read_text())
    assert (run["tokenizer"], run["codebook_size"], run["tokens_per_second"]) == (None, 300, 50)
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["ok"], summary["rejected"], summary["tokens"]) == (4, len(BAD), 46)
    assert {reason for _, _, reason in BAD} | {"broken_file", "line_too_long"} == set(
        IMPORT_REASONS
    )

    before = snapshot(output)
    assert run_job("import_tokens", *flags).returncode == 1  # more was rejected than a tenth
    assert snapshot(output) == before
    # What is missing is made again, byte for byte.
    bytes_before = {path: path.read_bytes() for path in output.rglob("*.*t*") if path.is_file()}
    (output / "reports/shard-000001.parquet").unlink()
    (output / "shards/shard-000001.tar").unlink()
    assert run_job("import_tokens", *flags, "--max-reject-rate", 1).returncode == 0
    again = {path: path.read_bytes() for path in bytes_before}
    changed = {path.name for path in again if again[path] != bytes_before[path]}
    assert changed <= {"summary.json"}
    done = run_job("import_tokens", *flags, "--codebook-size", 300)
    assert_refused_after_bar(done, "--output", "settings")


def test_a_line_without_end_is_rejected_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_lines, "LONGEST_LINE", 1 << 20)
    good = b'{"key": "%s", "units": [1]}\n'
    long = b'{"key": "x", "units": [' + b"1, " * (8 << 20) + b"1]}\n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(good % b"a" + long + good % b"b", 1))
    del long
    files = find_files([str(tmp_path / "a.jsonl.gz")], (".jsonl.gz",))[1]
    tracemalloc.start()
    rows = [(line.key, line.reason) for line in unit_lines.read_lines("read", files, 2)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [("a", None), ("a.jsonl.gz:2", "line_too_long"), ("b", None)]
    assert peak < 8 << 20


def test_store_and_a_cut_file(s3, lines, tmp_path):
    whole = (lines / "one.jsonl.gz").read_bytes()
    (lines / "two.jsonl").unlink()
    (lines / "two.jsonl.gz").write_bytes(whole[: len(whole) - 20])
    source, output = s3.upload(lines, "lines"), "s3://speech/imported"
    flags = ("--input", source + "/*.gz", "--output", output, "--codebook-size", 100_000)
    done = run_job("import_tokens", *flags, "--max-reject-rate", 1)
    assert done.returncode == 1 and "broken" in done.stderr
    options = {"endpoint_url": s3.endpoint, "key": "test", "secret": "test"}
    with fsspec.open(f"{output}/shards/shard-000000.tar", "rb", **options) as file:
        found = read_tokens(file)
    assert list(found) == list(GOOD) and found["b"][0].dtype == np.uint32
    summary = json.loads(s3.read("imported/summary.json"))
    assert summary["rejected_by_reason"]["broken_file"] == 1 and summary["incomplete_shards"]


@pytest.mark.parametrize("content", ["", "\n\n", '{"key": "a", "units": []}\n'])
def test_nothing_to_import_is_refused(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    output = tmp_path / "tokens"
    done = run_job("import_tokens", "--input", tmp_path / "a.jsonl", "--output", output)
    assert_refused_after_bar(done, "--input", "no line")
    assert not output.exists()
