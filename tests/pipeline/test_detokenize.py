"""jobs/detokenize.py from outside: tokens become speech again, in order and of full length."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ONE_THREAD, SPEECH, read_tokens, run_here, run_job
from refusals import assert_refused
from stores import snapshot

from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

NAMES = [f"speech-{number:06d}" for number in range(3)]


@pytest.fixture(scope="module")
def with_vocoder(tokenizer, tmp_path_factory) -> Path:
    """The tokenizer, with a vocoder of random weights."""
    files = TokenizerFiles.read(tokenizer)
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderConfig(width=files.width, hidden=32, layers=2, feed_forward=64))
    # So that it is about as loud as a trained vocoder.
    vocoder.head.proj.bias.data[:513] = 0.5
    folder = tmp_path_factory.mktemp("with_vocoder")
    files = replace(files, vocoder=vocoder.config, vocoder_weights=vocoder.state_dict())
    files.save(folder)
    return folder


@pytest.fixture(scope="module")
def decoded(good, with_vocoder, tmp_path_factory):
    """(OUTPUT, finished process) of the tokens of tests/speech, decoded."""
    output = tmp_path_factory.mktemp("decoded") / "audio"
    return output, run_job("detokenize", *flags(good.output, with_vocoder, output))


def flags(tokens, tokenizer, output) -> tuple:
    """The job's flags."""
    return "--input", tokens, "--tokenizer", tokenizer, "--output", output


def members(path: Path) -> dict[str, bytes]:
    """{name: content} of a tar, in order."""
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def test_every_utterance_comes_back_in_order_and_of_full_length(good, decoded, with_vocoder):
    output, done = decoded
    assert done.returncode == 0, done.stderr
    files = {str(p.relative_to(output)) for p in output.rglob("*")}
    assert files == {"run.json", *(f"{name}.tar" for name in NAMES)}
    tokenizer = Tokenizer(TokenizerFiles.read(with_vocoder))
    for name in NAMES:
        tokens = read_tokens(good.output / f"shards/{name}.tar")
        made = members(output / f"{name}.tar")
        assert list(made) == [f"{key}.{ending}" for key in tokens for ending in ("flac", "json")]
        for key, (array, about) in tokens.items():
            assert json.loads(made[f"{key}.json"]) == about
            flac = soundfile.SoundFile(io.BytesIO(made[f"{key}.flac"]))
            assert (flac.samplerate, flac.channels, flac.subtype) == (16_000, 1, "PCM_16")
            wave = flac.read(dtype="float32")
            assert len(wave) == 320 * len(array) + 80 and wave.std() > 1e-3
            np.testing.assert_allclose(wave, tokenizer.decode(array), atol=1.1 / 32768)


def test_what_is_there_is_left_and_what_is_missing_is_made_again(good, decoded, with_vocoder):
    output, before = decoded[0], snapshot(decoded[0])
    done = run_job("detokenize", *flags(good.output, with_vocoder, output))
    assert done.returncode == 0 and "nothing was left to do" in done.stdout
    assert "Ray" not in done.stderr and snapshot(output) == before
    lost = output / f"{NAMES[1]}.tar"
    content = lost.read_bytes()
    lost.unlink()
    done = run_job("detokenize", *flags(good.output, with_vocoder, output))
    assert done.returncode == 0 and "1 of 3 shards" in done.stdout, done.stderr
    assert lost.read_bytes() == content
    after = snapshot(output)
    assert all(after[name] == before[name] for name in (f"{NAMES[0]}.tar", f"{NAMES[2]}.tar"))


@pytest.mark.slow
def test_what_comes_out_can_be_tokenized_again(decoded, with_vocoder, good, s3, tmp_path):
    """Output on a store has the same bytes, and tokenizing it again gives as many tokens."""
    tokens = s3.upload(good.output, "tokens")
    output = f"s3://{s3.bucket}/decoded"
    done = run_job("detokenize", *flags(tokens, with_vocoder, output))
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert s3.read(f"decoded/{name}.tar") == (decoded[0] / f"{name}.tar").read_bytes()
    done = run_job("tokenize", *flags(decoded[0], with_vocoder, tmp_path), *ONE_THREAD)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        one, two = (
            {key: len(array) for key, (array, _) in read_tokens(out / f"shards/{name}.tar").items()}
            for out in (good.output, tmp_path)
        )
        assert one == two


def test_tokens_and_tokenizers_that_do_not_fit_are_refused(
    good, decoded, tokenizer, with_vocoder, tmp_path
):
    output = tmp_path / "out"
    done = run_here("detokenize", *flags(good.output, tokenizer, output))
    assert_refused(done, "--tokenizer", tokenizer, "no vocoder", "jobs/train_vocoder.py")
    files = TokenizerFiles.read(with_vocoder)
    files.weights["codebook.codes"][0] += 1
    files.save(tmp_path / "other")
    done = run_here("detokenize", *flags(good.output, tmp_path / "other", output))
    made_by = TokenizerFiles.read(with_vocoder).fingerprint
    assert_refused(done, f"--input {good.output}", tmp_path / "other", files.fingerprint[:12])
    assert_refused(done, f"its tokens are of tokenizer {made_by[:12]}")
    done = run_here("detokenize", *flags(SPEECH, with_vocoder, output))
    assert_refused(done, "--input", SPEECH, "run.json")
    assert not output.exists()
    # Another vocoder's shards are not mixed with those that are there.
    files = TokenizerFiles.read(with_vocoder)
    files.vocoder_weights["head.proj.bias"][0] += 1
    files.save(tmp_path / "louder")
    done = run_here("detokenize", *flags(good.output, tmp_path / "louder", decoded[0]))
    assert_refused(done, "--output", decoded[0], "vocoder")
