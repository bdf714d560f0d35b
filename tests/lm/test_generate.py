"""jobs/generate.py continues prompts as a person asks it to."""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import SPEECH, run_job
from lm_models import small_config, small_lm, speaking
from tars import waves

from jobs import generate
from jobs.cli import flags
from jobs.cli.generation import add_generation
from lm.files import save_lm
from lm.generation import Sampling
from lm.model import SpeechLM
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.token_shards import TokenShardWriter
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """lm, of wavlm-tiny-km256; loud, with a vocoder as well; imported, of no tokenizer; plain, of
    no tokenizer and without START.
    """
    folder = tmp_path_factory.mktemp("models")
    files = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256")
    torch.manual_seed(0)
    model = SpeechLM.from_tokenizer(small_config(codebook_size=256, window=120), files)
    save_lm(folder / "lm", model, tokenizer=files, made_by={})
    save_lm(folder / "loud", model, tokenizer=speaking(files, causal=True), made_by={})
    save_lm(folder / "imported", small_lm(), tokenizer=None, made_by={})
    save_lm(folder / "plain", small_lm(start=False), tokenizer=None, made_by={})
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """Three recordings of under two seconds, and files that are no prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    for number, wave in enumerate(waves()[:3]):
        soundfile.write(folder / f"voice-{number}.flac", wave[: 16_000 + 3000 * number], 16_000)
    soundfile.write(folder / "short.wav", np.zeros(300), 16_000)
    (folder / "text.wav").write_text("speech")
    np.save(folder / "empty.npy", np.empty(0, np.uint16))
    np.save(folder / "chunk.npy", np.arange(3))
    np.save(folder / "other.npy", np.array([3, 256]))
    np.save(folder / "numbers.npy", np.zeros(8))
    return folder


def test_the_job_continues_recordings(models, prompts, tmp_path):
    flags = ("--lm", models / "loud", "--seconds", 1.5, "--seed", 4, "--precision", "fp32")
    some, more = tmp_path / "some", tmp_path / "more"
    done = run_job("generate", *flags, "--prompt", prompts / "voice-*.flac", "--output", some)
    assert done.returncode == 0, done.stderr
    assert "3 continuations of 1.50 s" in done.stdout
    made = {path.name for path in some.iterdir()}
    endings = ("wav", "joined.wav", "tokens.npy")
    assert made == {f"voice-{n}.{ending}" for n in range(3) for ending in endings}
    tokenizer = Tokenizer(TokenizerFiles.read(models / "loud/tokenizer"))
    wave, rate = soundfile.read(prompts / "voice-1.flac", dtype="float32")
    prompt, tokens = tokenizer.encode(wave, rate), np.load(some / "voice-1.tokens.npy")
    joined, _ = soundfile.read(some / "voice-1.joined.wav")
    expected = tokenizer.decode(np.concatenate([prompt, tokens]))
    np.testing.assert_allclose(joined, expected, atol=1e-3)
    assert np.array_equal(soundfile.read(some / "voice-1.wav")[0], joined[320 * len(prompt) :])
    assert (len(tokens), tokens.dtype) == (75, np.uint16)
    # Alone, twice, and without a vocoder: the first of them is the same.
    flags = ("--lm", models / "lm", *flags[2:], "--samples", 2)
    done = run_job("generate", *flags, "--prompt", prompts / "voice-1.flac", "--output", more)
    assert done.returncode == 0, done.stderr
    assert "no vocoder" in done.stdout and "train_vocoder" in done.stdout
    one, two = (np.load(more / f"voice-1.{n}.tokens.npy") for n in (1, 2))
    assert len(list(more.iterdir())) == 2
    assert np.array_equal(one, tokens) and not np.array_equal(one, two)


def run_here(monkeypatch, capsys, *arguments) -> tuple[int, list[str]]:
    """The job's exit status and lines on stderr, in this process."""
    monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        flags.run(generate.main)
    return end.value.code, capsys.readouterr().err.splitlines()


@pytest.fixture
def shard(models, tmp_path) -> Path:
    """A token shard of an OUTPUT of the models' tokenizer."""
    (tmp_path / "tokens/shards").mkdir(parents=True)
    fingerprint = TokenizerFiles.read(models / "lm/tokenizer").fingerprint
    (tmp_path / "tokens/run.json").write_text(json.dumps({"tokenizer": fingerprint}))
    path = tmp_path / "tokens/shards/a.tar"
    tar = TokenShardWriter(path, shard="a", codebook_size=256)
    for number in range(4):
        tokens = np.arange(20 + 40 * number)
        tar.add(f"v/{number}", tokens, duration_s=1.0, sample_rate=16_000, metadata=None)
    tar.close()
    return path


def test_the_job_continues_tokens(models, shard, tmp_path, monkeypatch, capsys):
    """With a tokenizer that got its vocoder after the model was trained."""
    output = tmp_path / "out"
    common = ("--lm", models / "lm", "--prompt-tokens", shard, "--seconds", 1, "--output", output)
    flags = (*common, "--tokenizer", models / "loud/tokenizer", "--limit", 2)
    status, said = run_here(monkeypatch, capsys, *flags, "--prompt-seconds", 0.5)
    assert status == 0, said
    made = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    endings = ("wav", "joined.wav", "tokens.npy")
    assert made == {f"v/{n}.{ending}" for n in range(2) for ending in endings}
    assert soundfile.info(output / "v/1.joined.wav").frames == 320 * (25 + 50) + 80
    # All of every prompt: the last has more tokens than the model's window.
    status, said = run_here(monkeypatch, capsys, *common, "--seconds", 0.1)
    assert status == 0, said
    made = [*output.rglob("*.tokens.npy")]
    assert len(made) == 4 and {len(np.load(path)) for path in made} == {5}
    (shard.parent.parent / "run.json").write_text('{"tokenizer": "0123456789abcdef"}')
    status, said = run_here(monkeypatch, capsys, *common)
    assert status == 2 and "tokenizer 0123456789ab" in said[-1]


# (flags, what the one line must say). {m}: models, {p}: prompts, {s}: tests/speech.
UNUSABLE = {
    "less-than-a-chunk": ("--prompt-tokens {p}/chunk.npy --lm {m}/plain", "continues 4 or more"),
    "short": ("--prompt {p}/short.wav", "it is empty"),
    "no-audio": ("--prompt {p}/text.wav", "it is no audio"),
    "no-file": ("--prompt {p}/nothing-*.wav", "matches nothing"),
    "no-tokens": ("--prompt-tokens {p}/empty.npy", "it has no tokens"),
    "other-tokens": ("--prompt-tokens {p}/other.npy", "a token 256"),
    "numbers": ("--prompt-tokens {p}/numbers.npy", "float64"),
    "audio-as-tokens": ("--prompt-tokens {p}/voice-0.flac", "holds no tokens"),
    "audio-shard": ("--prompt-tokens {s}/speech-000000.tar", "holds no tokens"),
    "no-prompt": ("", "--prompt"),
    "no-model": ("--prompt {p}/voice-0.flac --lm {p}", "config.json"),
    "imported": ("--prompt {p}/voice-0.flac --lm {m}/imported", "no tokenizer for audio"),
    "tokenizer": ("--prompt {p}/voice-0.flac --tokenizer wavlm-tiny-km1024", "the model is of"),
    "top-p": ("--prompt {p}/voice-0.flac --top-p 0", "top_p"),
    "seconds": ("--prompt {p}/voice-0.flac --seconds 0", "--seconds"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_arguments(models, prompts, tmp_path, monkeypatch, capsys, case):
    line, said = UNUSABLE[case]
    own = line.format(m=models, p=prompts, s=SPEECH).split()
    arguments = ["--lm", models / "lm", *own, "--output", tmp_path / "out"]
    status, lines = run_here(monkeypatch, capsys, *arguments)
    assert status == 2 and len(lines) == 1, lines
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


def test_flags_that_are_left_out_are_the_defaults_of_sampling():
    parser = argparse.ArgumentParser()
    add_generation(parser)
    args = parser.parse_args(["--lm", "lm", "--prompt", "a.wav", "--output", "out"])
    given = Sampling(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    assert given == Sampling()


def test_a_prompt_is_never_written_over(models, prompts, tmp_path, monkeypatch, capsys):
    for name in ("a.wav", "b.wav"):
        shutil.copyfile(prompts / "voice-0.flac", tmp_path / name)
    flags = ("--lm", models / "loud", "--prompt", tmp_path / "*.wav", "--output", tmp_path)
    status, lines = run_here(monkeypatch, capsys, *flags)
    assert status == 2 and "a.wav in it is a prompt" in lines[0]
