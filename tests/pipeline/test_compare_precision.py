"""Which precision makes the tokens: jobs say it, and jobs/evaluate.py tokens compares both."""

import json
import re
from dataclasses import replace

import pytest
from conftest import ONE_THREAD, SPEECH, read_tokens, run_job

from jobs.cli import flags
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles


def test_both_precisions_are_compared(tokenizer, tmp_path):
    output = tmp_path / "compared"
    common = ("--input", SPEECH / "speech-000002.tar", "--tokenizer", tokenizer, "--output", output)
    file = ("--json", tmp_path / "compared.json")
    done = run_job("evaluate", "tokens", *common, *file, "--compare-precision", *ONE_THREAD)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("encoding in")]
    assert lines == ["encoding in fp32 on cpu", "encoding in bf16 on cpu"]
    one, two = (read_tokens(output / f"{place}shards/speech-000002.tar") for place in ("", "bf16/"))
    pairs = [(tokens, two[key][0]) for key, (tokens, _) in one.items()]
    equal = sum(int((made == again).sum()) for made, again in pairs)
    tokens = sum(len(made) for made, _ in pairs)
    figures = json.loads(file[1].read_text())
    assert figures["compared_tokens"] == figures["tokens"] == tokens
    assert figures["equal_tokens"] == pytest.approx(equal / tokens) and 0.5 < equal / tokens < 1
    assert figures["other_lengths"] == 0
    assert re.search(r"^equal_tokens +0\.", done.stdout, re.M)


def test_bf16_of_an_imported_tokenizer_is_announced(capsys):
    """A model that comes with it learned from its tokens in fp32."""
    files = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256")
    imported = replace(files, made_by={"method": "imported", "from": "somewhere"})
    for given, precision, lines in (
        (files, "bf16", 0),
        (imported, "fp32", 0),
        (imported, "bf16", 1),
    ):
        flags.warn_of_bf16(given, precision)
        found = capsys.readouterr().err.splitlines()
        assert len(found) == lines and all("--compare-precision" in line for line in found)
