"""Generation: what is kept of the past gives the logits of one full pass, and the job continues
prompts as a person asks it to.
"""

import argparse
import json
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import SPEECH, run_job
from lm_models import causal_files, row_of, shaken, small_config, small_lm, speech

from jobs import generate
from jobs.cli import flags
from jobs.cli.generation import add_generation
from lm.config import LMError
from lm.files import save_lm
from lm.generation import Generator, Sampling
from lm.inference import BLOCK
from lm.model import SpeechLM
from tokenizer.codec.vocoder import Vocoder
from tokenizer.config import VocoderConfig
from tokenizer.errors import UsageError
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.token_shards import TokenShardWriter
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

EVERYTHING = Sampling(temperature=1.0, top_k=None, top_p=None)


def speaking(files: TokenizerFiles, causal: bool) -> TokenizerFiles:
    """The tokenizer with a small vocoder of random weights."""
    torch.manual_seed(2)
    config = VocoderConfig(width=files.width, hidden=16, layers=1, feed_forward=32, causal=causal)
    return replace(files, vocoder=config, vocoder_weights=dict(Vocoder(config).state_dict()))


def lm_of(folder, inputs: str, chunk: int) -> SpeechLM:
    """With a window that is neither whole chunks nor short."""
    if inputs == "embedding":
        return small_lm(chunk=chunk, window=90)
    config = small_config(inputs=inputs, chunk=chunk, window=90)
    torch.manual_seed(0)
    return shaken(SpeechLM.from_tokenizer(config, causal_files(folder)))


@pytest.mark.parametrize(
    ("inputs", "chunk"), [("embedding", 1), ("codes", 4), ("decompressor", 4), ("embedding", 3)]
)
def test_step_by_step_gives_the_logits_of_one_pass(tmp_path, inputs, chunk):
    """Past the window many times over, and past the end of the buffer that it moves in."""
    model = lm_of(tmp_path, inputs, chunk)
    length = (2 * BLOCK + 150) // chunk * chunk
    own = speech(length, seed=3)
    with torch.no_grad():
        full = model(*row_of([own], chunk, chunk + length))[0].split(chunk)
    lm, chunks = Generator(model).lm, torch.from_numpy(own).split(chunk)
    # What began with a prompt of no chunk, of some, and of over a block, side by side.
    begun = [0, 5, (BLOCK + 50) // chunk]
    logits, state = lm.begin([torch.from_numpy(own[: chunk * place]) for place in begun])
    while begun[-1] < len(chunks):
        expected = torch.stack([full[place] for place in begun])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        logits = lm.step(torch.stack([chunks[place] for place in begun]), state)
        begun = [place + 1 for place in begun]
    assert chunk * begun[0] > BLOCK + 90


@pytest.mark.parametrize("inputs", ["embedding", "decompressor"])
def test_a_batch_gives_what_each_prompt_gives_alone(tmp_path, inputs):
    generator = Generator(lm_of(tmp_path, inputs, 4))
    prompts = [speech(n, seed=n) for n in (0, 13, 80, 13, 90)]
    seeds = [5, 6, 7, 8, 9]
    for sampling in (EVERYTHING, Sampling(temperature=0.9, top_k=5, top_p=0.7)):
        together = generator.generate(prompts, 30, seeds, sampling=sampling)
        for prompt, seed, expected in zip(prompts, seeds, together):
            assert expected.shape == (30,)
            (alone,) = generator.generate([prompt], 30, [seed], sampling=sampling)
            assert np.array_equal(alone, expected)
    # Two of one length need no padding, and another seed says something else.
    one, other = generator.generate([prompts[1]] * 2, 30, [6, 7], sampling=EVERYTHING)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, generator.generate(prompts[1:2], 30, [6], sampling=EVERYTHING)[0])


def test_a_prompt_that_ends_within_a_chunk_loses_nothing():
    """What follows is likely by the model's own word: greedy, each token is the likeliest one."""
    model = small_lm(window=90)
    prompt = speech(30, seed=4)
    (tokens,) = Generator(model).generate([prompt], 31, [0], sampling=Sampling(temperature=0))
    own = np.concatenate([prompt, tokens])
    with torch.no_grad():
        logits = model(*row_of([own], 4, 4 + 64))[0]
    assert np.array_equal(logits.argmax(-1)[30:61].numpy(), tokens)


def test_tokens_are_drawn_as_likely_as_they_are():
    logits = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3])).expand(4000, 1, 4)
    generators = [torch.Generator().manual_seed(i) for i in range(4000)]
    for sampling, expected in (
        (EVERYTHING, [0.05, 0.5, 0.15, 0.3]),
        (Sampling(temperature=1.0, top_k=2, top_p=None), [0, 0.625, 0, 0.375]),
        (Sampling(temperature=1.0, top_p=0.7), [0, 0.625, 0, 0.375]),
        (Sampling(temperature=1.0, top_p=0.81), [0, 0.526, 0.158, 0.316]),
        (Sampling(temperature=1.0, top_k=3, top_p=0.3), [0, 1, 0, 0]),
        (Sampling(temperature=0.5, top_p=1), [0.007, 0.685, 0.062, 0.247]),
        (Sampling(temperature=0), [0, 1, 0, 0]),
    ):
        drawn = sampling.draw(logits, generators)
        shares = torch.bincount(drawn.flatten(), minlength=4) / 4000
        # Five standard deviations.
        assert (shares - torch.tensor(expected)).abs().max() < 0.04, sampling
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(LMError, match=next(iter(wrong))):
            Sampling(**wrong)


@pytest.mark.parametrize("causal", [True, False])
def test_sound_while_tokens_come_is_that_of_all_of_them(tmp_path, causal):
    files = speaking(causal_files(tmp_path), causal)
    torch.manual_seed(0)
    model = shaken(SpeechLM.from_tokenizer(small_config(inputs="decompressor"), files))
    generator, tokenizer, prompt = Generator(model), Tokenizer(files), speech(18, seed=1)
    (tokens,) = generator.generate([prompt], 43, [3], sampling=EVERYTHING)
    pieces = list(generator.speak(tokenizer, prompt, 43, seed=3, sampling=EVERYTHING))
    expected = tokenizer.decode(np.concatenate([prompt, tokens]))[18 * 320 :]
    np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-4)
    if causal:
        # The first lacks what the vocoder's windows overlap; then it is 80 ms a step.
        assert len(pieces) == 13 and {len(piece) for piece in pieces[2:-2]} == {1280}
    else:
        assert len(pieces) == 1
    with pytest.raises(UsageError, match="no vocoder"):
        generator.speak(Tokenizer(replace(files, vocoder=None)), prompt, 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """lm, of wavlm-tiny-km256; loud, with a vocoder as well; imported, of no tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    files = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256")
    torch.manual_seed(0)
    model = SpeechLM.from_tokenizer(small_config(codebook_size=256, window=120), files)
    save_lm(folder / "lm", model, tokenizer=files, made_by={})
    save_lm(folder / "loud", model, tokenizer=speaking(files, causal=True), made_by={})
    save_lm(folder / "imported", small_lm(), tokenizer=None, made_by={})
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """Three recordings of under two seconds, one longer, and files that are no prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    with tarfile.open(SPEECH / "speech-000000.tar") as shard:
        sounds = [member for member in shard if member.name.endswith(".flac")][:3]
        for number, member in enumerate(sounds):
            wave, rate = soundfile.read(shard.extractfile(member))
            soundfile.write(folder / f"voice-{number}.flac", wave[: rate + 3000 * number], rate)
    soundfile.write(folder / "long.wav", np.tile(wave, 4), rate)
    soundfile.write(folder / "short.wav", np.zeros(300), 16_000)
    (folder / "text.wav").write_text("speech")
    np.save(folder / "empty.npy", np.empty(0, np.uint16))
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
    status, said = run_here(monkeypatch, capsys, *common)
    assert status == 2 and "140 tokens" in said[-1] and "--prompt-seconds 2.4" in said[-1]
    (shard.parent.parent / "run.json").write_text('{"tokenizer": "0123456789abcdef"}')
    status, said = run_here(monkeypatch, capsys, *common)
    assert status == 2 and "tokenizer 0123456789ab" in said[-1]


# (flags, what the one line must say). {m}: models, {p}: prompts, {s}: tests/speech.
UNUSABLE = {
    "long": ("--prompt {p}/long.wav", "--prompt-seconds 2.4"),
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
