"""jobs/train_lm.py with --start: it goes on from a language model and changes none of its shape."""

import json

import numpy as np
import torch
from conftest import as_flags, run_here, train_here
from refusals import assert_refused
from small_lm import small_config, write_tokens

from lm.files import read_lm, save_lm
from lm.model import SpeechLM
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles


def test_the_job_goes_on_from_a_model(tmp_path):
    """Of wavlm-tiny-d1024's tokens, without START; too short utterances are counted."""
    files = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-d1024")
    random = np.random.default_rng(0)
    said = [random.integers(0, 1024, size) for size in (30, 4, 50, 3, 40, 60)]
    tokens = write_tokens(tmp_path / "tokens", said, 1024, files.fingerprint)
    torch.manual_seed(0)
    model = SpeechLM.from_tokenizer(small_config(1024, inputs="codes", start=False), files)
    save_lm(tmp_path / "lm", model, tokenizer=files, made_by={})
    changes = {"input": tokens, "output": tmp_path / "out", "start": tmp_path / "lm"}
    changes |= {"steps": 3, "rows": 2, "row-tokens": 32, "held-out": 0, "precision": "fp32"}
    given = as_flags(changes)
    done = train_here("train_lm", *given)
    assert done.returncode == 0, done.stderr
    assert "2 utterances of up to 4 tokens are left out" in done.stderr
    tuned, tokenizer = read_lm(tmp_path / "out/model")
    assert tuned.config == model.config and tokenizer.fingerprint == files.fingerprint
    assert not torch.equal(tuned.head.weight, model.head.weight)
    assert torch.equal(tuned.inputs.table, model.inputs.table)
    record = json.loads((tmp_path / "out/training/run.json").read_text())
    assert record["start"] == str(tmp_path / "lm") and len(record["start_weights"]) == 64
    assert record["tokens"]["left_out_utterances"] == 2
    # A model with other weights in its place is another training.
    model.head.weight.data += 1
    save_lm(tmp_path / "lm", model, tokenizer=files, made_by={})
    assert_refused(run_here("train_lm", *given), "--output", "start_weights")
    # What it has already is not asked again, and its tokens are needed.
    for more, wanted in (
        (["--preset", "base", "--window", 9], "--preset, --window would change them"),
        (["--no-start-chunk"], "--no-start-chunk would change them"),
        (["--tokenizer", "wavlm-tiny-km256"], "--tokenizer"),
        (["--row-tokens", 30], "--start"),
    ):
        assert_refused(run_here("train_lm", *given, *more), wanted)
    short = write_tokens(tmp_path / "short", [np.arange(4)] * 3, 1024, files.fingerprint)
    other = write_tokens(tmp_path / "other", [np.arange(9)] * 3, 1024)
    for source, wanted in ((short, "more than 4 tokens"), (other, "of no tokenizer")):
        assert_refused(run_here("train_lm", *given, "--input", source), "--input", wanted)
