"""jobs/train_vocoder.py from outside: it leaves a tokenizer that can speak."""

import numpy as np
import pytest
import torch
from conftest import SPEECH, as_flags, json_lines, run_here, run_job
from refusals import assert_refused
from tars import waves

from tokenizer.codec.vocoder_losses import SpectralLoss
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

SMALL = {
    "input": SPEECH,
    "tokenizer": "wavlm-tiny-km256",
    "hidden": 48,
    "layers": 2,
    "steps": 150,
    "rows": 2,
    "row-seconds": 1,
    "learning-rate": 2e-3,
    "checkpoint-minutes": 0.0001,
}


def flags(output, **changes) -> list:
    """The job's flags; `changes` replaces some."""
    return as_flags({**SMALL, "output": output, **changes})


def log(output) -> list[dict]:
    """The lines of the training's log."""
    return json_lines(output / "training/log.jsonl")


@pytest.mark.slow
def test_a_tokenizer_learns_to_speak(tmp_path):
    """How it continues after a kill: see tests/pipeline/training/test_training_resume.py."""
    output = tmp_path / "speaking"
    done = run_job("train_vocoder", *flags(output))
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in log(output)] == [50, 100, 150]
    assert log(output)[2]["log_mel"] < 0.8 * log(output)[0]["log_mel"]

    # The same tokens, decoded to speech: nearer to the original than noise of the same level.
    files = TokenizerFiles.read(PRETRAINED / SMALL["tokenizer"])
    assert TokenizerFiles.read(output).fingerprint == files.fingerprint
    tokenizer = Tokenizer(TokenizerFiles.read(output))
    wave = waves()[0]
    made = tokenizer.decode(tokenizer.encode(wave))
    wave = wave[: len(made)] * 10 ** (-23 / 20) / wave.std()
    level = 20 * np.log10(np.sqrt(np.square(made).mean()))
    assert -33 < level < -17 and abs(made).max() <= 1
    noise = made.std() * np.random.default_rng(0).standard_normal(len(made))
    loss = SpectralLoss()
    decoded_loss, noise_loss = (
        loss(torch.from_numpy(each).float()[None], torch.from_numpy(wave)[None])
        for each in (made, noise)
    )
    assert decoded_loss[0] < 0.8 * noise_loss[0]
    # In time with the original: loud where it is loud.
    loud, decoded = (np.square(each[:-80].reshape(-1, 320)).mean(1) for each in (wave, made))
    later = {n: np.corrcoef(loud, np.roll(decoded, n))[0, 1] for n in range(-5, 6)}
    assert max(later, key=later.get) == 0

    assert_refused(run_here("train_vocoder", *flags(output)), "--output", "config.json")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"row-seconds": 0.1}, "--row-seconds"),
        ({"output-rate": 24_000}, "--head linear"),
        ({"head": "linear", "output-rate": 24_010}, "--output-rate 24010"),
        ({"head": "linear", "output-rate": 4_000}, "--output-rate 4000"),
        ({"tokenizer": "wavlm-tiny"}, "--tokenizer"),
    ],
)
def test_unusable_arguments_are_refused(tmp_path, changes, said):
    assert_refused(run_here("train_vocoder", *flags(tmp_path / "out", **changes)), said)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_training_of_an_earlier_version_is_refused(tmp_path):
    training = tmp_path / "out/training"
    training.mkdir(parents=True)
    (training / "checkpoint.safetensors").touch()
    done = run_here("train_vocoder", *flags(tmp_path / "out"))
    assert_refused(done, "--output", "earlier version", "finish it with the version that began it")
