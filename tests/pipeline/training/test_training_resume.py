"""A training that is stopped and run again ends with the bits of one that is not.

In this process, each model as its training process trains it, on the speech of tests/. The language
model's and preference tuning's are in tests/lm.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SPEECH
from safetensors.torch import load_file
from transformers import WavLMConfig

from pipeline.settings import (
    CropSettings,
    DistillSettings,
    EncoderSettings,
    Recipe,
    Round,
    VocoderSettings,
)
from pipeline.shards.inputs import find_shards
from pipeline.training import crops, distill_stages, train_encoder, train_vocoder
from tokenizer.codec import quantizers
from tokenizer.config import FocalConfig, LossWeights, VocoderConfig
from tokenizer.errors import UsageError
from tokenizer.storage.encoder_files import read_encoder
from tokenizer.storage.fetch import PRETRAINED
from tokenizer.storage.folder import Folder
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer
from tokenizer.training import loop
from tokenizer.training.checkpoints import check_layout, checkpoint_steps
from tokenizer.training.settings import RuntimeSettings, TrainingSettings

# A vocoder's shape, at 24 kHz.
LINEAR = {"head": "linear", "samples_per_frame": 480, "margin": 0, "limiter": False}
CLOCK = ("time", "times_real_time")


class Stopped(Exception):
    """A power cut."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Short segments of audio, and no Ray for progress."""
    monkeypatch.setattr(crops, "BUFFER_PIECES", 20)
    monkeypatch.setattr(crops, "SEGMENT_PIECES", 1)
    monkeypatch.setattr(crops, "SHARDS_AT_ONCE", 1)
    for module in (distill_stages, train_vocoder):
        monkeypatch.setattr(module, "Reporter", lambda board: lambda *_: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shards() -> list:
    """The audio shards of tests/speech."""
    return find_shards([str(SPEECH)])[1]


def stop_at(monkeypatch, step: int, folder: str) -> None:
    """Stop as the checkpoint of this step is due: what was done since the last one is lost."""
    save = loop.save_checkpoint

    def save_or_stop(target, *args, **more):
        if more["step"] == step and target.root.endswith(folder):
            raise Stopped
        save(target, *args, **more)

    monkeypatch.setattr(loop, "save_checkpoint", save_or_stop)


def run_stopped(monkeypatch, run, stops: list[tuple[int, str]]) -> None:
    """Run, stopped at each of these (step, folder), and at last to the end."""
    for step, folder in stops:
        with monkeypatch.context() as patch:
            stop_at(patch, step, folder)
            with pytest.raises(Stopped):
                run()
    run()


def assert_same(one: Path, other: Path, weights: str, logs: list[str]) -> None:
    """The same weights to the bit, and the same logs but for what a clock says."""
    first, second = load_file(one / weights), load_file(other / weights)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    for log in logs:
        lines = [
            [
                {k: v for k, v in json.loads(line).items() if k not in CLOCK}
                for line in (folder / log).read_text().splitlines()
            ]
            for folder in (one, other)
        ]
        assert lines[0] == lines[1] and len(lines[0]) > 1


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["codebook", "bsq"])
def test_every_stage_of_a_distillation(quantizer, tmp_path, monkeypatch):
    # With a high bar for use, codes are reset from latents that are older than the checkpoint.
    monkeypatch.setattr(quantizers, "UNUSED_SHARE", 0.9)
    monkeypatch.setattr(distill_stages, "RESTART_EVERY", 8)
    encoder = PRETRAINED / "wavlm-tiny"
    causal = quantizer == "codebook"

    def run(output: Path) -> None:
        config, weights = read_encoder(encoder, 4)
        files = TokenizerFiles(config, "l2", {f"encoder.{k}": v for k, v in weights.items()})
        settings = DistillSettings(
            codebook_size=32,
            quantizer=quantizer,
            focal=FocalConfig(width=256, latent=5, hidden=(16,), factors=(1,), causal=causal),
            weights=LossWeights(),
            warm_up=6,
            steps=18,
            rows=2,
            frames=25,
            kmeans_frames=400,
            learning_rate=1e-3,
            seed=1,
            encoder_steps=6 if causal else None,
        )
        run = distill_stages.DistillRun(
            shards=shards(),
            output=str(output),
            encoder=encoder,
            files=files,
            settings=settings,
            training=TrainingSettings(steps=18, learning_rate=1e-3, seed=1),
            runtime=RuntimeSettings(device="cpu", checkpoint_minutes=1e-9, log_every=3),
            board=None,
        )
        distill_stages.distill_in_process({"run": run})

    run(tmp_path / "whole")
    stops = [(6, "training/encoder")] if causal else []
    stops += [(6, "training/warm-up"), (9, "training/distill"), (15, "training/distill")]
    run_stopped(monkeypatch, lambda: run(tmp_path / "stopped"), stops)
    stages = ["warm-up", "distill", *(["encoder"] if causal else [])]
    logs = [f"training/{stage}/log.jsonl" for stage in stages]
    assert_same(tmp_path / "whole", tmp_path / "stopped", "model.safetensors", logs)
    assert list((tmp_path / "stopped/training/distill").glob("events.out.tfevents.*"))
    assert checkpoint_steps(Folder(str(tmp_path / "stopped/training/distill"))) == [15, 18]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{}, LINEAR], ids=["istft", "linear"])
def test_a_vocoder_with_discriminators(shape, tmp_path, monkeypatch):
    def run(output: Path) -> None:
        files = TokenizerFiles.read(PRETRAINED / "wavlm-tiny-km256")
        settings = VocoderSettings(
            vocoder=VocoderConfig(width=files.width, hidden=16, layers=1, feed_forward=32, **shape),
            adversarial_weight=0.1,
            steps=12,
            rows=1,
            frames=25,
            learning_rate=1e-3,
            precision="fp32",
            seed=2,
            workers=1,
        )
        run = train_vocoder.VocoderRun(
            shards=shards(),
            output=str(output),
            files=files,
            settings=settings,
            runtime=RuntimeSettings(device="cpu", checkpoint_minutes=1e-9, log_every=4),
            board=None,
        )
        train_vocoder.train_in_process({"run": run})

    run(tmp_path / "whole")
    run_stopped(monkeypatch, lambda: run(tmp_path / "stopped"), [(8, "training")])
    logs = ["training/log.jsonl"]
    assert_same(tmp_path / "whole", tmp_path / "stopped", "vocoder.safetensors", logs)
    # The last checkpoints hold discriminators and the optimizers' state too.
    assert_same(
        tmp_path / "whole",
        tmp_path / "stopped",
        "training/checkpoints/step-12.safetensors",
        logs,
    )
    # It decodes at its own rate, and the record has a field only where it is not the default.
    tokenizer = Tokenizer.from_pretrained(tmp_path / "whole")
    each, margin = (480, 0) if shape else (320, 80)
    assert tokenizer.output_sample_rate == 50 * each
    assert tokenizer.decode(np.arange(7)).shape == (7 * each + margin,)
    made_by = TokenizerFiles.read(tmp_path / "whole").made_by["vocoder"]["vocoder"]
    assert set(LINEAR) & set(made_by) == set(shape)


class SomeLabels(dict):
    """Labels for any utterance, without a tokenizer."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> np.ndarray:
        return np.arange(6000) // 7 % 20


@pytest.mark.slow
def test_an_encoder_in_both_of_its_stages(tmp_path, monkeypatch):
    monkeypatch.setattr(train_encoder.EncoderTraining, "_make_labels", lambda *_, **__: {})
    monkeypatch.setattr(crops, "_labels", lambda folder, shard: SomeLabels())

    def run(output: Path) -> None:
        crop = CropSettings(
            rows=2,
            frames=30,
            mask_share=0.4,
            mask_span=5,
            speed=0.15,
            rooms=0.3,
            mixing=0.3,
            noise=0.3,
            channels=0.5,
        )
        recipe = Recipe(
            spectrum_steps=6,
            rounds=(Round(steps=14, codes=20, layer=None, heard_weight=0.5),),
            crops=crop,
            learning_rate=2e-3,
            precision="fp32",
            seed=3,
        )
        config = WavLMConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            conv_dim=[16] * 7,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
        train_encoder.EncoderTraining(
            shards=shards(),
            noises=shards()[:1],
            output=Folder(str(output)),
            config=config,
            recipe=recipe,
            runtime=RuntimeSettings(device="cpu", checkpoint_minutes=1e-9, log_every=3),
            encoding=EncoderSettings(),
            show=lambda *_: None,
        ).run()

    run(tmp_path / "whole")
    stops = [(6, "spectra"), (12, "round1")]
    run_stopped(monkeypatch, lambda: run(tmp_path / "stopped"), stops)
    logs = ["round1/log.jsonl", "round1/spectra/log.jsonl"]
    weights = "round1/encoder/model.safetensors"
    assert_same(tmp_path / "whole", tmp_path / "stopped", weights, logs)


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    folder = Folder(str(tmp_path))
    check_layout(folder)
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(UsageError, match="finish it with the version that began it") as refused:
        check_layout(folder)
    assert refused.value.argument == "output" and "cannot continue" in refused.value.problem
