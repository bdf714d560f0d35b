"""Every kind of source becomes the samples that the same audio gives as loose files."""

import gzip
import io
import json
from collections import Counter

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from here import ingest_here, json_of, reasons_of, rows_of, samples_of, sound_of

from tokenizer.errors import UsageError

RATE = 16_000


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """A folder with two.wav (stereo, 3 s) and one.flac (mono, 2 s), and their samples."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    one = (rng.integers(-9000, 9000, 2 * RATE) / 32768).astype(np.float32)
    two = (rng.integers(-9000, 9000, (3 * RATE, 2)) / 32768).astype(np.float32)
    soundfile.write(folder / "one.flac", one, RATE)
    soundfile.write(folder / "two.wav", two, RATE, subtype="PCM_16")
    return folder, one, two


def lines(path, rows, opened=open):
    with opened(path, "wt") as file:
        for row in rows:
            file.write((row if isinstance(row, str) else json.dumps(row)) + "\n")
    return path


def test_json_lines(audio, tmp_path):
    folder, _, two = audio
    rows = [
        {"audio_filepath": "one.flac", "duration": 2.0, "text": "all of it", "x": float("inf")},
        {"audio_filepath": "two.wav", "offset": 0.5, "duration": 1.25, "text": "a part"},
        {"audio_filepath": "two.wav", "offset": 1.0, "duration": 1.0, "speaker": 3, "start": "y"},
        {"audio_filepath": "gone.wav"},
        "{no json",
        {"text": "no path"},
        {"audio_filepath": "one.flac", "offset": 1.5, "duration": 3},
        {"audio_filepath": "one.flac", "offset": 1.5, "duration": -1},
        {"audio_filepath": "one.flac", "offset": "soon", "duration": 1},
        {"audio_filepath": "../../etc/passwd.wav"},
        {"audio_filepath": "one.flac"},
        {"key": "../x", "audio_filepath": "one.flac"},
    ]
    path = lines(folder / "train.jsonl.gz", rows, gzip.open)
    totals = ingest_here([path], tmp_path)
    samples = samples_of(tmp_path)
    assert list(samples) == ["one", "two-00000500-00001750", "two-00001000-00002000"]
    assert samples["one"]["flac"] == (folder / "one.flac").read_bytes()
    assert json_of(samples["one"])["x"] is None
    mono = (two[:, 0] + two[:, 1]) * np.float32(0.5)
    np.testing.assert_array_equal(sound_of(samples["two-00000500-00001750"]), mono[8000:28000])
    about = json_of(samples["two-00001000-00002000"])
    assert about["source"] == "two.wav" and (about["start"], about["end"]) == (1.0, 2.0)
    assert about["speaker"] == 3 and about["manifest_start"] == "y"
    name = "train.jsonl.gz"
    rejected = [row for row in rows_of(tmp_path) if row["reason"] and row["place"]]
    assert {row["place"]: row["reason"] for row in rejected} == {
        f"{name}:4": "missing_file",
        f"{name}:5": "bad_line",
        f"{name}:6": "bad_line",
        f"{name}:7": "past_end",
        f"{name}:8": "bad_span",
        f"{name}:9": "bad_span",
        f"{name}:10": "outside_root",
        f"{name}:11": "duplicate_key",
        f"{name}:12": "bad_key",
    }  # fmt: skip
    assert totals["samples"] == 12 and totals["ok"] == 3


def test_a_store_is_listed_once_and_each_file_read_once(audio, tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    store.put(str(audio[0]) + "/", "/once/", recursive=True)
    rows = [
        {"audio_filepath": name, "offset": number / 50, "duration": 0.1, "id": f"{name}{number}"}
        for number in range(40)
        for name in ("one.flac", "two.wav", "gone.wav")
    ]
    store.pipe_file("/once/train.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())
    asked = Counter()
    for name in ("ls", "_open", "cat_file"):
        ask = getattr(type(store), name)

        def counted(fs, path, *args, name=name, ask=ask, **kwargs):
            asked[name, path.rpartition("/")[2]] += 1
            return ask(fs, path, *args, **kwargs)

        monkeypatch.setattr(type(store), name, counted)
    totals = ingest_here(["memory://once/train.jsonl"], tmp_path / "out")
    assert totals["ok"] == 80 and set(reasons_of(tmp_path / "out").values()) == {"missing_file"}
    reads = Counter(file for (name, file), n in asked.items() for _ in range(n * (name != "ls")))
    assert reads["one.flac"] == reads["two.wav"] == 1 and reads["gone.wav"] == 0, asked
    assert sum(n for (name, _), n in asked.items() if name == "ls") <= 2, asked


def test_tables_as_common_voice_and_ljspeech_have_them(audio, tmp_path):
    folder, one, _ = audio
    common = tmp_path / "cv"
    (common / "clips").mkdir(parents=True)
    (common / "clips/one.flac").write_bytes((folder / "one.flac").read_bytes())
    (common / "train.tsv").write_text('client_id\tpath\tsentence\nab\tone.flac\tsay "hello\n')
    ingest_here([common / "train.tsv"], tmp_path / "a")
    (sample,) = samples_of(tmp_path / "a").values()
    assert json_of(sample) == {"client_id": "ab", "path": "one.flac", "sentence": 'say "hello'}
    lj = tmp_path / "lj"
    (lj / "wavs").mkdir(parents=True)
    soundfile.write(lj / "wavs/LJ001-0001.wav", one, RATE)
    (lj / "metadata.csv").write_text('LJ001-0001|in 1455|in fourteen, "fifty"\nLJ001-0002|x|x\n')
    ingest_here([lj / "metadata.csv"], tmp_path / "b")
    samples = samples_of(tmp_path / "b")
    assert list(samples) == ["LJ001-0001"]
    assert json_of(samples["LJ001-0001"])["normalized_text"] == 'in fourteen, "fifty"'
    assert reasons_of(tmp_path / "b")["LJ001-0002"] == "missing_file"


def test_kaldi(audio, tmp_path):
    folder, _, two = audio
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text(f"rec {folder}/two.wav\nbad sox {folder}/one.flac -t wav - |\n")
    (data / "segments").write_text("u1 rec 0.25 1.5\nu2 rec 2 -1\nu3 bad 0 1\nu4 none 0 1\n")
    (data / "text").write_text("u1 HELLO  WORLD\nu2 YES\n")
    (data / "utt2spk").write_text("u1 s1\nu2 s1\n")
    ingest_here([data], tmp_path / "out", channels="first")
    samples = samples_of(tmp_path / "out")
    assert list(samples) == ["u1", "u2"]
    np.testing.assert_array_equal(sound_of(samples["u1"]), two[4000:24000, 0])
    np.testing.assert_array_equal(sound_of(samples["u2"]), two[32000:, 0])
    about = json_of(samples["u1"])
    assert about["text"] == "HELLO  WORLD" and about["speaker"] == "s1"
    reasons = reasons_of(tmp_path / "out")
    assert reasons["u3"] == "command" and reasons["u4"] == "bad_line"


def test_lhotse(audio, tmp_path):
    folder, _, two = audio
    source = {"type": "file", "channels": [0, 1], "source": f"{folder}/two.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": RATE, "duration": 3.0}
    recording["num_samples"] = 3 * RATE
    supervision = {"id": "s", "recording_id": "r", "start": 1.0, "duration": 0.5, "channel": 1}
    lines(tmp_path / "recordings.jsonl", [recording])
    lines(tmp_path / "supervisions.jsonl", [{**supervision, "text": "hi"}])
    ingest_here([tmp_path / "recordings.jsonl", tmp_path / "supervisions.jsonl"], tmp_path / "a")
    samples = samples_of(tmp_path / "a")
    assert list(samples) == ["s"] and json_of(samples["s"])["text"] == "hi"
    np.testing.assert_array_equal(sound_of(samples["s"]), two[16000:24000, 1])
    cut = {"id": "c", "start": 0.5, "duration": 1, "channel": [0, 1], "type": "MultiCut"}
    mixed = {"id": "m", "type": "MixedCut", "tracks": []}
    lines(tmp_path / "cuts.jsonl", [{**cut, "recording": recording, "supervisions": []}, mixed])
    ingest_here([tmp_path / "cuts.jsonl"], tmp_path / "b")
    samples = samples_of(tmp_path / "b")
    assert list(samples) == ["c-ch0", "c-ch1"]
    np.testing.assert_array_equal(sound_of(samples["c-ch1"]), two[8000:24000, 1])
    assert reasons_of(tmp_path / "b")["m"] == "unsupported_cut"


def test_parquet(audio, tmp_path):
    folder, _, _ = audio
    data = (folder / "one.flac").read_bytes()
    rows = [
        {"audio": {"bytes": data, "path": "a.b.flac"}, "text": "x", "n": 1},
        {"audio": {"bytes": None, "path": "beside.flac"}, "text": "y", "n": 2},
        {"audio": {"bytes": data, "path": None}, "text": None, "n": 3},
        {"audio": None, "text": "z", "n": 4},
        {"audio": {"bytes": None, "path": "../out.flac"}, "text": None, "n": 5},
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/beside.flac").write_bytes(data)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in/train.parquet")
    with pytest.raises(UsageError, match="audio files and Parquet tables") as refused:
        ingest_here([tmp_path / "in"], tmp_path / "out")
    assert refused.value.argument == "format"
    ingest_here([tmp_path / "in"], tmp_path / "out", format="parquet")
    samples = samples_of(tmp_path / "out")
    assert list(samples) == ["a_b", "beside", "00000002"]
    assert all(sample["flac"] == data for sample in samples.values())
    assert json_of(samples["a_b"]) == {"text": "x", "n": 1}
    reasons = reasons_of(tmp_path / "out")
    assert reasons == {"00000003": "bad_line", "out": "outside_root"}
    (source,) = [row for row in rows_of(tmp_path / "out") if row["kind"] == "source"]
    assert source["source"] == "train.parquet" and source["samples"] == 3


def test_parquet_that_is_damaged_or_has_no_audio(audio, tmp_path):
    folder, _, _ = audio
    data = (folder / "one.flac").read_bytes()
    (tmp_path / "in").mkdir()
    rows = [{"audio": {"bytes": data, "path": f"{number}.flac"}} for number in range(40)]
    sizes = {"row_group_size": 20, "compression": "none", "use_dictionary": False}
    for name in ("cut", "mend", "whole"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"in/{name}.parquet", **sizes)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "in/text.parquet")
    (tmp_path / "in/cut.parquet").write_bytes((tmp_path / "in/cut.parquet").read_bytes()[:-20])
    damaged = bytearray((tmp_path / "in/mend.parquet").read_bytes())
    second = pq.read_metadata(tmp_path / "in/whole.parquet").row_group(1).column(0)
    damaged[second.data_page_offset : second.data_page_offset + 40] = bytes(40)
    (tmp_path / "in/mend.parquet").write_bytes(damaged)
    done = ingest_here([tmp_path / "in"], tmp_path / "out")
    reasons = {"cut": "broken_table", "mend": "broken_table", "text": "no_audio"}
    assert reasons_of(tmp_path / "out") == {f"{k}.parquet": reasons[k] for k in reasons}
    # The first rows, and all other tables, are there.
    assert (done["ok"], done["sources"], done["sources_rejected"]) == (60, 4, 3)


def test_tars_and_what_lies_beside(audio, tmp_path):
    folder, _, two = audio
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "a.wav").write_bytes((folder / "two.wav").read_bytes())
    for ending, text in {"json": '{"x": 1}', "txt": "hello", "TextGrid": "File type"}.items():
        (loose / f"a.{ending}").write_text(text)
    ingest_here([loose], tmp_path / "once")
    ingest_here([tmp_path / "once"], tmp_path / "twice")
    first = samples_of(tmp_path / "once")
    assert set(first["a"]) == {"wav", "json", "txt", "TextGrid"}
    assert first == samples_of(tmp_path / "twice")
    (tmp_path / "once/gone.tar").symlink_to("nowhere.tar")
    totals = ingest_here([tmp_path / "once"], tmp_path / "with-a-dead-link")
    assert first == samples_of(tmp_path / "with-a-dead-link") and totals["sources_rejected"] == 1
    rows = rows_of(tmp_path / "with-a-dead-link")
    assert [r["source"] for r in rows if r["reason"] == "missing_file"] == ["gone.tar"]
    ingest_here([tmp_path / "once"], tmp_path / "split", channels="split")
    split = samples_of(tmp_path / "split")
    assert list(split) == ["a-ch0", "a-ch1"] and json_of(split["a-ch1"])["channel"] == 1
    assert split["a-ch1"]["txt"] == b"hello" and "TextGrid" in split["a-ch0"]
    # A transcript of all of it is none of its parts.
    cut = ingest_here([loose], tmp_path / "cut", segment="fixed", min_seconds=0.5, max_seconds=2)
    assert all(set(sample) == {"flac", "json"} for sample in samples_of(tmp_path / "cut").values())
    assert cut["left_beside"] == {"txt": 1, "TextGrid": 1}
    np.testing.assert_array_equal(sound_of(split["a-ch1"]), two[:, 1])


def test_two_channels_that_cancel_are_rejected_by_name(tmp_path):
    rng = np.random.default_rng(1)
    left = (rng.integers(-9000, 9000, RATE) / 32768).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, np.stack([left, -left], 1), RATE, format="WAV", subtype="PCM_16")
    (tmp_path / "a.wav").write_bytes(file.getvalue())
    rows = [{"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.5, "id": "part"}]
    lines(tmp_path / "x.jsonl", rows)
    ingest_here([tmp_path / "x.jsonl"], tmp_path / "mix")
    assert reasons_of(tmp_path / "mix") == {"part": "channels_cancel"}
    ingest_here([tmp_path / "x.jsonl"], tmp_path / "split", channels="split")
    assert list(samples_of(tmp_path / "split")) == ["part-ch0", "part-ch1"]
