"""jobs/train_encoder.py from outside: it continues after a kill, and writes a WavLM."""

from pathlib import Path

import pytest
import torch
from conftest import SPEECH, as_flags, json_lines, kill_when, run_here, run_job
from safetensors.torch import load_file
from transformers import WavLMConfig, WavLMModel

from tokenizer.storage.encoder_files import read_encoder

SMALL = {
    "input": SPEECH,
    "noise": SPEECH / "speech-000000.tar",
    "spectrum-steps": 50,
    "steps": [150, 50],
    "codes": [40, 60],
    "label-layers": 1,
    "layers": 2,
    "width": 64,
    "conv-widths": [16, 24, 32, 32, 32, 32, 32],
    "rows": 4,
    "row-seconds": 1,
    "checkpoint-minutes": 0.0001,
}
# With --start, whose encoder has a shape.
NO_SHAPE = {"layers": None, "width": None, "conv-widths": None}


def flags(output: Path, **changes) -> list:
    """The job's flags; `changes` replaces some, and with None leaves them out."""
    return as_flags({**SMALL, "output": output, **changes})


def log(folder: Path) -> list[dict]:
    """The lines of a round's log."""
    return json_lines(folder / "log.jsonl")


@pytest.mark.slow
def test_killed_in_a_round_and_run_again(tmp_path):
    output = tmp_path / "encoder"
    kill_when((output / "round1/log.jsonl").exists, "train_encoder", *flags(output))
    labels = sorted((output / "round1/labels/shards").glob("*.tar"))
    before = [path.stat().st_mtime_ns for path in labels]
    seen = len(log(output / "round1"))
    assert not (output / "round1/encoder").exists() and len(labels) == 3

    done = run_job("train_encoder", *flags(output))
    assert done.returncode == 0, done.stderr
    # Labels and what was learned by then are kept, and each step is in the log once.
    assert [path.stat().st_mtime_ns for path in labels] == before
    assert [line["step"] for line in log(output / "round1")] == list(range(50, 151, 50))
    assert 0 < seen < 3
    first, *_, last = log(output / "round1")
    assert last["loss"] < first["loss"] and last["masked_accuracy"] > 1.5 / 40
    assert last["hours"] == pytest.approx(150 * 4 / 3600, abs=0.001)

    model = WavLMModel.from_pretrained(output / "encoder").eval()
    torch.manual_seed(0)
    assert model(torch.randn(1, 16_000)).last_hidden_state.shape == (1, 49, 64)
    config, weights = read_encoder(output / "encoder", 2)
    assert config.normalize
    assert weights["encoder.layers.1.feed_forward.output_dense.weight"].dtype == torch.half

    # Nothing is left to do; and other flags are not taken for the same run.
    assert run_job("train_encoder", *flags(output)).returncode == 0
    done = run_here("train_encoder", *flags(output, codes=[40, 70]))
    assert done.returncode == 2 and "rounds" in done.stderr

    # Another run starts from it, with whitened labels, and leaves the kept layer as it is.
    more_rounds = {
        **NO_SHAPE,
        "start": output / "encoder",
        "keep-layers": 1,
        "whiten": 16,
        "steps": 50,
        "codes": 40,
        "spectrum-steps": 0,
    }
    done = run_job("train_encoder", *flags(tmp_path / "more", **more_rounds))
    assert done.returncode == 0, done.stderr
    before, after = (
        load_file(folder / "encoder/model.safetensors") for folder in (output, tmp_path / "more")
    )
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed and all(
        name.startswith(("encoder.layers.1.", "encoder.layer_norm")) for name in changed
    )


UNUSABLE = {
    "one-count-for-two-rounds": ({"codes": 40}, "--codes"),
    "layer-that-is-not-there": ({"label-layers": 3}, "2 layers"),
    "width-of-no-heads": ({"width": 50}, "--heads"),
    "row-of-a-span": ({"row-seconds": 0.1}, "--mask-span"),
    "nothing-to-keep": ({"keep-layers": 1}, "--start"),
    "all-kept": (
        {**NO_SHAPE, "start": "wavlm-tiny", "keep-layers": 8, "label-layers": [7, 7]},
        "--keep-layers",
    ),
    "another-shape-than-it-has": ({"start": "wavlm-tiny"}, "--width"),
    "more-components-than-features": ({"whiten": 65}, "--whiten"),
    "no-audio": ({"input": "/nowhere"}, "matches nothing"),
    "no-noise": ({"noise": "/nowhere"}, "--noise"),
}


@pytest.mark.parametrize("changes, said", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_arguments(changes, said, tmp_path):
    done = run_here("train_encoder", *flags(tmp_path / "out", **changes))
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_encoder_of_group_norms_is_no_start(tmp_path):
    WavLMConfig(num_hidden_layers=2).save_pretrained(tmp_path / "base")  # as wavlm-base is
    start = {**NO_SHAPE, "start": tmp_path / "base", "label-layers": [1, 1]}
    done = run_here("train_encoder", *flags(tmp_path / "out", **start))
    assert done.returncode == 2 and "layer norms" in done.stderr.splitlines()[-1]
