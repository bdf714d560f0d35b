"""Unusable arguments of jobs/tokenize.py: exit 2 and one line that says which, before any work."""

import shutil
from pathlib import Path

import pytest
from conftest import SPEECH, as_flags, run_here
from ray_cluster import free_port
from refusals import assert_refused
from s3fs import S3FileSystem
from stores import snapshot

from tokenizer.storage.tokenizer_files import TokenizerFiles

NO_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": None,
    "AWS_SECRET_ACCESS_KEY": None,
    "AWS_SESSION_TOKEN": None,
    "AWS_PROFILE": None,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders that are no input, and one that is no tokenizer."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "empty").mkdir()
    (folder / "no-tokenizer").mkdir()
    (folder / "no-tokenizer/config.json").write_text('{"model_type": "wavlm"}')
    (folder / "file").write_text("")
    return folder


# (flags that replace the usable ones, what the line must say). {p}: places, {s}: tests/speech.
UNUSABLE = {
    "no-match": ({"input": "{p}/*.tar"}, "matches nothing"),
    "no-file": ({"input": "{p}/nothing.tar"}, "matches nothing"),
    "empty-folder": ({"input": "{p}/empty"}, "matches nothing"),
    "pipe": ({"input": "pipe:touch {p}/shell"}, "pipe"),
    "unknown-scheme": ({"input": "nosuch://bucket/x.tar"}, "nosuch"),
    "open-brace": ({"input": "{s}/speech-{{000000..000002.tar"}, "braces"),
    "brace-range-lacks-one": ({"input": "{s}/speech-{{000000..000003}}.tar"}, "000003"),
    "no-tokenizer-folder": ({"tokenizer": "{p}/nothing"}, "no such folder"),
    "other-tokenizer-folder": ({"tokenizer": "{p}/no-tokenizer"}, "config.json"),
    "tokenizer-pipe": ({"tokenizer": "pipe:touch {p}/shell"}, "pipe"),
    "output-pipe": ({"output": "pipe:cat > {p}/shell"}, "pipe"),
    "output-in-a-file": ({"output": "{p}/file/out"}, "Not"),
    "short-window": ({"window-seconds": "4", "context-seconds": "2"}, "--context-seconds"),
    # In frames of 20 ms both round to a context that fills the window.
    "window-of-context": ({"window-seconds": "0.05", "context-seconds": "0.024"}, ""),
    "batch-size-0": ({"batch-size": "0"}, ""),
    "reject-rate-2": ({"max-reject-rate": "2"}, ""),
    "precision": ({"precision": "fp8"}, ""),
}


@pytest.mark.parametrize("changes, said", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_flag(tokenizer, places, tmp_path, changes, said):
    output = tmp_path / "out"
    flags = {"input": SPEECH, "tokenizer": tokenizer, "output": output}
    changes = {name: value.format(p=places, s=SPEECH) for name, value in changes.items()}
    done = run_here("tokenize", *as_flags({**flags, **changes}))
    name, value = next(iter(changes.items()))
    assert_refused(done, f"--{name}", value, said)
    assert not output.exists() and not (places / "shell").exists()


@pytest.fixture
def new_filesystem():
    """What s3fs keeps has the credentials and the endpoint of the test that made it."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("new_filesystem")
@pytest.mark.parametrize("kind", ["bucket", "credentials", "endpoint"])
def test_a_store_that_does_not_answer(s3, tokenizer, tmp_path, kind):
    env = {**s3.env, "HOME": tmp_path}
    value = "s3://speech/shards"
    if kind == "bucket":
        value = "s3://no-such-bucket/shards"
    elif kind == "credentials":
        env.update(NO_CREDENTIALS)
    else:
        env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{free_port()}"
    output = tmp_path / "out"
    usable = ("--tokenizer", tokenizer, "--output", output)
    assert_refused(run_here("tokenize", "--input", value, *usable, env=env), "--input", value)
    assert not output.exists()
    if kind == "endpoint":
        return  # it would take as long again
    flags = ("--input", SPEECH, "--tokenizer", tokenizer, "--output", value)
    assert_refused(run_here("tokenize", *flags, env=env), "--output", value)


def test_output_of_another_tokenizer_or_setting(good, tokenizer, tmp_path):
    before = snapshot(good.output)
    files = TokenizerFiles.read(tokenizer)
    files.weights["codebook.codes"][0] += 1
    files.save(tmp_path / "other")
    flags = ("--input", SPEECH, "--output", good.output)
    done = run_here("tokenize", *flags, "--tokenizer", tmp_path / "other")
    assert_refused(done, "--output", good.output, "another tokenizer")
    done = run_here("tokenize", *flags, "--tokenizer", tokenizer, "--batch-size", 7)
    assert_refused(done, "--output", good.output, "--batch-size 32, not 7")
    assert snapshot(good.output) == before


def test_damaged_tokenizer_or_run_record(good, tokenizer, tmp_path):
    shutil.copytree(tokenizer, tmp_path / "cut")
    weights = tmp_path / "cut/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    output = tmp_path / "out"
    flags = ("--input", SPEECH, "--output", output)
    done = run_here("tokenize", *flags, "--tokenizer", tmp_path / "cut")
    assert_refused(done, "--tokenizer", tmp_path / "cut")
    assert not output.exists()
    output.mkdir()
    Path(output / "run.json").write_text("{")
    done = run_here("tokenize", *flags, "--tokenizer", tokenizer)
    assert_refused(done, "--output", output, "run.json")
