"""Manifests and tables that their own tools made: ingest gives the sound that these tools load, and
its shards give the tokens of the same sound as loose files.
"""

import numpy as np
import pytest
import soundfile
from conftest import ONE_THREAD, read_tokens, run_job
from here import ingest_here, json_of, rows_of, samples_of, sound_of

RATE = 16_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, {kind: names of its inputs}, {kind: {key: the waveform that its tool loads}}).

    The folder has audio, manifests and tables of it, and nothing else.
    """
    lhotse = pytest.importorskip("lhotse")
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    one, two = (rng.integers(-9000, 9000, shape) / 32768 for shape in (2 * RATE, (3 * RATE, 2)))
    soundfile.write(folder / "one.flac", one, RATE)
    soundfile.write(folder / "two.wav", two, RATE, subtype="PCM_16")
    soundfile.write(folder / "mono.wav", one[::-1], RATE, subtype="PCM_16")
    names = ("one.flac", "two.wav", "mono.wav")
    recordings = lhotse.RecordingSet.from_recordings(
        lhotse.Recording.from_file(folder / name, relative_path_depth=1) for name in names
    )

    def said(key, of, start, duration, channel=0):
        about = {"channel": channel, "text": f"text of {key}", "speaker": "a"}
        return lhotse.SupervisionSegment(key, of, start, duration, **about)

    supervisions = lhotse.SupervisionSet.from_segments(
        [
            said("s1", "one", 0.25, 1.0),
            said("s2", "two", 1.0, 1.5, [0, 1]),
            said("s3", "two", 0.5, 0.75, 1),
            # Times between samples.
            said("s4", "mono", 0.1234, 0.7777),
            said("s5", "mono", 0.98765, 0.54321),
        ]
    )
    recordings.to_file(folder / "recordings.jsonl.gz")
    supervisions.to_file(folder / "supervisions.jsonl.gz")
    whole = lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
    first, stereo, last = whole
    good = [*whole.trim_to_supervisions(keep_overlapping=False), stereo.with_id("stereo")]
    good.append(first.truncate(offset=0.1, duration=0.7).with_id("truncated"))
    bad = {
        "padded": first.pad(duration=4),
        "appended": first.append(last),
        "resampled": first.resample(8000),
        "faster": first.perturb_speed(1.1),
    }
    bad = [cut.with_id(name) for name, cut in bad.items()]
    lhotse.CutSet.from_cuts(good + bad).to_file(folder / "cuts.jsonl.gz")

    def load(cuts, **names):
        sounds = {}
        for cut in cuts:
            sound = cut.with_recording_path_prefix(folder).load_audio()
            for number, wave in enumerate(sound):
                sounds[cut.id if len(sound) == 1 else f"{cut.id}-ch{number}"] = wave
        return sounds

    loaded = {"cuts": load(good)}
    loaded["supervisions"] = {key: loaded["cuts"][key] for key in loaded["cuts"] if key[0] == "s"}
    loaded["supervisions"] = {
        key: wave for key, wave in loaded["supervisions"].items() if not key.startswith("stereo")
    }
    lhotse.kaldi.export_to_kaldi(
        recordings.filter(lambda recording: recording.id == "mono"),
        supervisions.filter(lambda supervision: supervision.recording_id == "mono"),
        folder,
    )
    mono = soundfile.read(folder / "mono.wav", dtype="float32")[0]
    kaldi = [line.split() for line in (folder / "segments").read_text().splitlines()]
    loaded["kaldi"] = {
        key: mono[round(float(start) * RATE) : round(float(end) * RATE)]
        for key, _, start, end in kaldi
    }
    write_parquet(folder, names)
    loaded["bytes"] = loaded["paths"] = {
        name.partition(".")[0]: mixed(folder / name) for name in names
    }
    inputs = {
        "cuts": ["cuts.jsonl.gz"],
        "supervisions": ["recordings.jsonl.gz", "supervisions.jsonl.gz"],
        "kaldi": [""],
        "bytes": ["bytes.parquet"],
        "paths": ["paths.parquet"],
    }
    return folder, inputs, loaded


def write_parquet(folder, names):
    """Two tables: one as `datasets` pushes it to a hub, with the files' bytes, and one as its
    to_parquet leaves it, with their absolute paths.
    """
    datasets = pytest.importorskip("datasets")
    from datasets.table import embed_table_storage

    datasets.disable_progress_bars()
    columns = {"audio": [str(folder / name) for name in names], "text": list(names)}
    table = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
    embedded = table.with_format("arrow").map(embed_table_storage, batched=True)
    embedded.with_format(None).to_parquet(folder / "bytes.parquet")
    table.to_parquet(folder / "paths.parquet")


def mixed(path):
    sound, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return sound[:, 0] if sound.shape[1] == 1 else (sound[:, 0] + sound[:, 1]) * np.float32(0.5)


def ingest_all(inputs, base, output):
    """Ingest every kind from a URL or folder to another."""
    for kind, names in inputs.items():
        values = [f"{base}/{name}".rstrip("/") for name in names]
        ingest_here(values, f"{output}/{kind}", format="kaldi" if kind == "kaldi" else None)


def tokenize(shards, output):
    place = ("--input", shards, "--output", output, "--tokenizer", "wavlm-tiny-km256")
    done = run_job("tokenize", *place, *ONE_THREAD)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def local(made, tmp_path_factory):
    """A folder with shards/KIND of everything, shards/loose of what the tools load, in files with
    the keys KIND/KEY, and tokens/ of them all.
    """
    folder, inputs, loaded = made
    here = tmp_path_factory.mktemp("local")
    ingest_all(inputs, folder, here / "shards")
    for kind, sounds in loaded.items():
        for key, wave in sounds.items():
            path = here / "files" / kind / f"{key}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, RATE, subtype="PCM_24")
    ingest_here([here / "files"], here / "shards/loose")
    tokenize(here / "shards", here / "tokens")
    return here


@pytest.mark.slow
def test_sound_is_that_of_the_tool_and_tokens_those_of_loose_files(made, local):
    for kind, sounds in made[2].items():
        samples = samples_of(local / "shards" / kind)
        assert set(samples) == set(sounds), kind
        for key, wave in sounds.items():
            sound = sound_of(samples[key])
            sound = sound if sound.ndim == 1 else (sound[:, 0] + sound[:, 1]) * np.float32(0.5)
            np.testing.assert_array_equal(sound, wave, err_msg=f"{kind} {key}")
    refused = ("padded", "appended", "resampled", "faster")
    rows = [row for row in rows_of(local / "shards/cuts") if row["kind"] == "sample"]
    reasons = {row["key"]: row["reason"] for row in rows if row["reason"]}
    assert reasons == dict.fromkeys(refused, "unsupported_cut")
    for kind in ("supervisions", "kaldi"):
        about = json_of(samples_of(local / "shards" / kind)["s4"])
        assert about["text"] == "text of s4" and about["speaker"] == "a"
    tokens = {
        (path.parent.name, key): tokens
        for path in local.glob("tokens/shards/*/*.tar")
        for key, (tokens, _) in read_tokens(path).items()
    }
    loose = {
        tuple(key.split("/", 1)): value for (kind, key), value in tokens.items() if kind == "loose"
    }
    assert len(loose) == len(tokens) / 2
    for place, wanted in loose.items():
        np.testing.assert_array_equal(tokens[place], wanted, err_msg=str(place))


@pytest.mark.slow
def test_a_store_gives_the_same_shards_and_tokens(made, local, s3, monkeypatch):
    s3.reach(monkeypatch)
    url = s3.upload(made[0], "made")
    # Absolute paths in a table are those of a local disk.
    inputs = {kind: names for kind, names in made[1].items() if kind != "paths"}
    ingest_all(inputs, url, f"s3://{s3.bucket}/local/shards")
    tokenize(f"s3://{s3.bucket}/local/shards", f"s3://{s3.bucket}/local/tokens")
    listed = [key for key in s3.listing("local/") if key.endswith(".tar")]
    assert len(listed) == 2 * len(inputs)
    for key in listed:
        assert s3.read(key) == (local.parent / key.replace("local", local.name, 1)).read_bytes()
