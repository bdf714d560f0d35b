"""jobs/import_weights.py and jobs/export_weights.py as a user runs them."""

import json
import pickle
import shutil
import zlib

import numpy as np
import pytest
import torch
from conftest import run_here
from models import Bomb
from reference.drawn import REFERENCE, read_reference, speech
from refusals import assert_refused
from safetensors.torch import load_file
from stores import snapshot

from jobs.cli.models import encoder
from lm.files import read_lm
from tokenizer.published.checkpoint import write_checkpoint
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

KMEANS = REFERENCE / "kmeans.joblib"
UNITS = ("--encoder", "wavlm-tiny", "--layer", 4)
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def converted(job: str, source, output, *flags, env: dict | None = None) -> str:
    """What a job prints that converts `source` to `output`."""
    done = run_here(job, "--from", source, "--output", output, *flags, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder with codec/ and lm/, checkpoints in the layout of FocalCodec and WavSLM."""
    folder = tmp_path_factory.mktemp("theirs")
    for name, reference in (("codec", "focalcodec_causal"), ("lm", "wavslm")):
        about, weights = read_reference(reference)
        write_checkpoint(folder / name, about["config"], weights)
    return folder


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    """codec/ and lm/, imported."""
    folder = tmp_path_factory.mktemp("ours")
    converted("import_weights", theirs / "codec", folder / "codec")
    flags = ("--tokenizer", folder / "codec")
    converted("import_weights", theirs / "lm", folder / "lm", *flags)
    return folder


def test_a_codec_there_and_back(theirs, ours, tmp_path):
    shown = converted("export_weights", ours / "codec", tmp_path / "exported")
    files = TokenizerFiles.read(ours / "codec")
    assert files.made_by["method"] == "imported"
    for part in ("FocalCodec", "512", "50 tokens per second", "80 ms", "24,000 Hz"):
        assert part in shown
    assert files.fingerprint[:12] in shown
    exported = load_file(tmp_path / "exported/model.safetensors")
    for name, weight in load_file(theirs / "codec/model.safetensors").items():
        assert torch.equal(exported[name], weight), name
    again = converted("import_weights", tmp_path / "exported", tmp_path / "again")
    assert files.fingerprint[:12] in again and "next:\n  python jobs/tokenize.py" in again
    wave = speech(16_000)
    assert Tokenizer.from_pretrained(tmp_path / "again").encode(wave).shape == (50,)


def test_a_language_model_there_and_back(theirs, ours, tmp_path):
    """Its codec goes with it, and their configuration says where it lies."""
    shown = converted("export_weights", ours / "lm", tmp_path / "exported", "--codec-config", "a/b")
    assert "3 layers of width 24" in shown and "a/b" in shown
    assert json.loads((tmp_path / "exported/config.json").read_text())["codec_config"] == "a/b"
    edited = tmp_path / "edited"
    shutil.copytree(ours / "lm", edited)
    config = json.loads((edited / "config.json").read_text())
    assert config["made_by"]["config"]["codec_config"] == "someone/tiny_codec"
    config["made_by"] = {"method": "trained further"}
    (edited / "config.json").write_text(json.dumps(config))
    converted("export_weights", edited, tmp_path / "alone")
    codec = f"{tmp_path}/alone/codec/model.json"
    assert json.loads((tmp_path / "alone/model.json").read_text())["codec_config"] == codec
    # Without a flag for the tokenizer: it is where the configuration says.
    converted("import_weights", tmp_path / "alone", tmp_path / "again")
    for name, weight in load_file(ours / "lm/model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "again/model.safetensors")[name], weight), name
    model, files = read_lm(tmp_path / "again")
    assert model.config == read_lm(ours / "lm")[0].config
    assert files.fingerprint == TokenizerFiles.read(ours / "codec").fingerprint


def test_one_stem_for_both_files(theirs, ours, tmp_path):
    """As their own to_pretrained("NAME") writes them: the folder works, and so does NAME.json."""
    folder = tmp_path / "named"
    folder.mkdir()
    for ending in ("json", "safetensors"):
        shutil.copy(theirs / f"codec/model.{ending}", folder / f"tiny.{ending}")
    wanted = TokenizerFiles.read(ours / "codec").fingerprint[:12]
    assert wanted in converted("import_weights", folder, tmp_path / "a")
    assert wanted in converted("import_weights", folder / "tiny.json", tmp_path / "b")


def test_a_bucket(s3, theirs, ours, tmp_path):
    url = s3.upload(theirs / "codec", "published/codec")
    wanted = TokenizerFiles.read(ours / "codec").fingerprint[:12]
    shown = converted("import_weights", url, "s3://speech/imported/codec", env=s3.env)
    assert wanted in shown
    shown = converted("export_weights", "s3://speech/imported/codec", tmp_path / "x", env=s3.env)
    assert wanted in shown


def test_units_are_the_nearest_centroids(tmp_path):
    """Of the joblib file of scikit-learn's own model, and of the same centroids as an array."""
    converted("import_weights", KMEANS, tmp_path / "units", *UNITS)
    files = TokenizerFiles.read(tmp_path / "units")
    centroids = files.weights["codebook.codes"].numpy()
    assert centroids.shape == (8, 256)
    np.save(tmp_path / "centroids.npy", centroids.astype(np.float64))
    flags = (*UNITS, "--metric", "l2")
    shown = converted("import_weights", tmp_path / "centroids.npy", tmp_path / "same", *flags)
    assert files.fingerprint[:12] in shown
    flags = (*UNITS, "--metric", "cosine")
    shown = converted("import_weights", tmp_path / "centroids.npy", tmp_path / "angle", *flags)
    assert files.fingerprint[:12] not in shown and "cosine" in shown

    tokenizer = Tokenizer(files)
    wave = speech(18_000)
    config, weights = encoder("wavlm-tiny", 4)
    plain = {f"encoder.{name}": weight for name, weight in weights.items()}
    (cut,) = tokenizer.windowing().cut(*_plan(tokenizer, wave))
    (features,) = Tokenizer(TokenizerFiles(config, "l2", weights=plain)).features([cut])
    distances = ((features[:, None].astype(np.float64) - centroids) ** 2).sum(-1)
    tokens = tokenizer.encode(wave)
    assert len(set(tokens.tolist())) > 3
    np.testing.assert_array_equal(tokens, distances.argmin(1))


def _plan(tokenizer: Tokenizer, wave: np.ndarray) -> tuple:
    from tokenizer.audio.arrays import utterance_of

    utterance = utterance_of(wave, 16_000)
    return utterance, tokenizer.windowing().plan(utterance.num_frames)


# What git leaves in place of a large file where git-lfs is not installed.
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(scope="module")
def places(tmp_path_factory, theirs):
    """Folders and files that are no published weights."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "empty").mkdir()
    (folder / "text").write_text("Not a model.\n")
    np.save(folder / "line.npy", np.zeros(8))
    np.save(folder / "narrow.npy", np.zeros((8, 12)))
    np.save(folder / "nan.npy", np.full((8, 256), np.nan))
    np.save(folder / "objects.npy", np.array([Bomb(folder / "ran")]), allow_pickle=True)
    (folder / "bomb.joblib").write_bytes(pickle.dumps({"cluster_centers_": Bomb(folder / "ran")}))
    (folder / "cut.joblib").write_bytes(KMEANS.read_bytes()[:-900])
    raw = zlib.decompress(KMEANS.read_bytes())
    (folder / "cut-raw.joblib").write_bytes(raw[:-900])
    for name in ("pointer", "pickle", "unknown", "wavlm", "ours", "list", "lacking", "no-weights"):
        (folder / name).mkdir()
    for name, config in (
        ("pointer", {"vocab_size": 512}),
        ("pickle", {"vocab_size": 512}),
        ("no-weights", {"vocab_size": 512}),
        ("unknown", {"a": 1}),
        ("wavlm", {"model_type": "wavlm"}),
        ("ours", {"format": "wavmill-tokenizer-1"}),
        ("list", []),
    ):
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "pointer/model.safetensors").write_text(POINTER)
    torch.save({"head.weight": Bomb(folder / "ran")}, folder / "pickle/model.pt")
    about, weights = read_reference("focalcodec_causal")
    del weights["compressor.out_proj.weight"], weights["encoder.norm.bias"]
    write_checkpoint(folder / "lacking", about["config"], weights)
    return folder


# (--from, more flags, what the line must say). {p}: places, {t}: theirs, {o}: ours.
UNUSABLE = {
    "no-such-path": ("{p}/nothing", (), "no such folder"),
    "no-such-name": ("nothing", (), "no such folder"),
    "empty": ("{p}/empty", (), "no config.json"),
    "text": ("{p}/text", UNITS, "no pickle or joblib file"),
    "pointer": ("{p}/pointer", (), "git lfs pull"),
    "pickle": ("{p}/pickle", ("--tokenizer", "{o}/codec"), "model.pt holds more than tensors"),
    "no-weights": ("{p}/no-weights", ("--tokenizer", "{o}/codec"), "model.safetensors"),
    "unknown": ("{p}/unknown", (), "unknown kind"),
    "wavlm": ("{p}/wavlm", (), "'wavlm'"),
    "ours": ("{o}/codec", (), "this project's layout already"),
    "list": ("{p}/list", (), "not a JSON object"),
    "lacking": ("{p}/lacking", (), "compressor.out_proj.weight"),
    "lacking-too": ("{p}/lacking", (), "encoder.norm.bias"),
    "offline": ("someone/tiny_codec", (), "hub id"),
    "codec-offline": ("{t}/lm", (), "someone/tiny_codec"),
    "other-codec": ("{t}/lm", ("--tokenizer", "wavlm-tiny-km256"), "256 codes"),
    "tokenizer-of-none": ("{t}/codec", ("--tokenizer", "{o}/codec"), "it is for WavSLM"),
    "layer-of-none": ("{t}/codec", ("--layer", "3"), "it is for k-means"),
    "units-of-what": (str(KMEANS), ("--layer", "4"), "--encoder"),
    "units-of-which": (str(KMEANS), ("--encoder", "wavlm-tiny"), "--layer"),
    "units-of-no-layer": (str(KMEANS), ("--encoder", "wavlm-tiny", "--layer", "99"), "99"),
    "bomb": ("{p}/bomb.joblib", UNITS, "neither an array nor scikit-learn's"),
    "objects": ("{p}/objects.npy", UNITS, "Object arrays cannot be loaded"),
    "line": ("{p}/line.npy", UNITS, "(8,)"),
    "narrow": ("{p}/narrow.npy", UNITS, "12 dimensions"),
    "nan": ("{p}/nan.npy", UNITS, "not finite"),
    "cut": ("{p}/cut.joblib", UNITS, "ends too early"),
    "cut-raw": ("{p}/cut-raw.joblib", UNITS, ""),
}


@pytest.mark.parametrize("source, flags, said", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_weights(places, theirs, ours, tmp_path, source, flags, said):
    named = {"p": places, "t": theirs, "o": ours}
    source, *flags = (str(part).format(**named) for part in (source, *flags))
    output = tmp_path / "out"
    done = run_here("import_weights", "--from", source, "--output", output, *flags, env=OFFLINE)
    assert_refused(done, said)
    assert not output.exists() and not (places / "ran").exists()


def test_an_output_that_is_taken(theirs, ours):
    before = snapshot(ours)
    for job, source in (("import_weights", theirs / "codec"), ("export_weights", ours / "codec")):
        done = run_here(job, "--from", source, "--output", ours / "codec")
        assert_refused(done, "--output", ours / "codec", "config.json")
    assert snapshot(ours) == before


# As above.
NOT_EXPORTED = {
    "km256": ("wavlm-tiny-km256", (), ""),
    "d1024": ("wavlm-tiny-d1024", (), ""),
    "no-folder": ("{p}/nothing", (), "no such folder"),
    "theirs": ("{t}/codec", (), "format"),
    "empty": ("{p}/empty", (), "config.json"),
    "codec-config": ("{o}/codec", ("--codec-config", "a/b"), "--codec-config"),
}


@pytest.mark.parametrize("source, flags, said", NOT_EXPORTED.values(), ids=NOT_EXPORTED)
def test_what_is_not_exported(places, theirs, ours, tmp_path, source, flags, said):
    source = source.format(p=places, t=theirs, o=ours)
    flags = [flag.format(o=ours) for flag in flags]
    output = tmp_path / "out"
    done = run_here("export_weights", "--from", source, "--output", output, *flags)
    assert_refused(done, said)
    assert not output.exists()
