"""Shards that are odd but whole, through the whole job: every recording, and its metadata."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from conftest import ONE_THREAD, read_tokens, rows_of, run_job
from tars import recordings, tar

KEYS = ("u0", "u1", "u2")


def sounds() -> list[bytes]:
    """Three short recordings."""
    return sorted(recordings().values(), key=len)[:3]


def shards() -> dict[str, tuple[bytes, dict[str, object]]]:
    """{file name: (its content, {key: metadata})}."""
    audio = [(f"{key}.flac", sound) for key, sound in zip(KEYS, sounds())]
    texts = [(f"{key}.json", json.dumps({"n": n}).encode()) for n, key in enumerate(KEYS)]
    metadata = {key: {"n": n} for n, key in enumerate(KEYS)}
    side_by_side = [member for pair in zip(audio, texts) for member in pair]
    plain = tar(*side_by_side)
    joined = b"".join(tar(*side_by_side[n : n + 2]) for n in (0, 2, 4))
    hidden = [(f"__d__/{name}", data) for name, data in side_by_side]
    dotted = [(f"speaker.{n:02d}.flac", sound) for n, (_, sound) in enumerate(audio)]
    infinite = [*audio, ("u0.json", b'{"x": 1e999}'), ("u1.json", b'{"x": NaN}')]
    return {
        "json-first.tar": (tar(*texts, *audio), metadata),
        "audio-first.tar": (tar(*audio, *texts), metadata),
        "joined.tar": (joined, metadata),
        "members.tar.gz": (gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]), metadata),
        "a::b.tar": (plain, metadata),
        "set[1].tar": (plain, metadata),
        "hidden.tar": (tar(*hidden), {f"_d__/{key}": metadata[key] for key in KEYS}),
        "dotted.tar": (tar(*dotted), {f"speaker_{n:02d}": None for n in range(3)}),
        "infinite.tar": (tar(*infinite), {"u0": {"x": None}, "u1": {"x": None}, "u2": None}),
    }


@pytest.mark.slow
def test_every_recording_comes_out_with_its_metadata(tmp_path):
    inputs, output, wanted = tmp_path / "in", tmp_path / "out", {}
    (tmp_path / "blobs").mkdir()
    inputs.mkdir()
    for name, (content, metadata) in shards().items():
        (inputs / name).write_bytes(content)
        wanted[name.partition(".")[0]] = metadata
    content, wanted["linked"] = shards()["joined.tar"]
    (tmp_path / "blobs/123").write_bytes(content)
    (inputs / "linked.tar").symlink_to("../blobs/123")
    place = ("--input", inputs, "--output", output, "--tokenizer", "wavlm-tiny-km256")
    done = run_job("tokenize", *place, *ONE_THREAD)
    assert done.returncode == 0, done.stderr

    rows = rows_of(output / "manifest.parquet")
    assert {(row["shard"], row["key"]) for row in rows} == {
        (shard, key) for shard, metadata in wanted.items() for key in metadata
    }
    assert len(rows) == 3 * len(wanted) and all(row["status"] == "ok" for row in rows)
    lengths = {}
    for shard, metadata in wanted.items():
        # As any reader of WebDataset tars sees them; by its name it would take "a::b" for two.
        with (output / f"shards/{shard}.tar").open("rb") as file:
            read = read_tokens(file)
        assert {key: about["metadata"] for key, (_, about) in read.items()} == metadata
        lengths[shard] = [len(tokens) for tokens, _ in read.values()]
        _is_strict_json(output / f"shards/{shard}.tar")
    assert len({tuple(sorted(each)) for each in lengths.values()}) == 1


def _is_strict_json(path: Path) -> None:
    with tarfile.open(path) as archive:
        for info in archive:
            if info.name.endswith(".json"):
                text = io.TextIOWrapper(archive.extractfile(info)).read()
                json.loads(text, parse_constant=pytest.fail)
