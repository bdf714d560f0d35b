"""jobs/plan.py from outside: what it computes, what it assumes, and what it refuses."""

import json

import pytest
from conftest import ROOT, run_here
from refusals import assert_refused

PRICES = {"currency": "EUR", "gpu_hour": {"h100": 2.0}, "storage_gb_month": 0.02}


def plan(tmp_path, *flags) -> tuple[dict, list[str], str]:
    """Figures, assumptions, and what was printed."""
    file = tmp_path / "plan.json"
    done = run_here("plan", *flags, "--json", file)
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    assert all(f"* {text}" in done.stdout for text in written["assumptions"])
    return written["figures"], written["assumptions"], done.stdout


def test_a_plan_follows_from_its_rates(tmp_path):
    rates = {
        "encode/wavlm-large/6/bf16/h100": {"value": 4000, "unit": "s/s"},
        "decode/flac16": {"value": 1000, "unit": "s/s"},
        "bytes/flac16": {"value": 20_000, "unit": "bytes/s"},
        "train/large/bf16/h100": {"value": 100_000, "unit": "tokens/s"},
        "manifest/reports": {"value": 100, "unit": "reports/s"},
    }
    (tmp_path / "rates.json").write_text(json.dumps(rates))
    (tmp_path / "prices.json").write_text(json.dumps(PRICES))
    files = ("--rates", tmp_path / "rates.json", "--prices", tmp_path / "prices.json")
    flags = ("--hours", 60_000, "--busy", 0.5, "--gpus-per-node", 8, *files)
    figures, _, shown = plan(tmp_path, *flags, "--deadline-days", 1)
    assert figures["gpu_times_real_time"] == 2000 and figures["cores_per_gpu"] == 3
    assert figures["tokenize_gpu_hours"] == pytest.approx(30)
    assert figures["tokens"] == 60_000 * 3600 * 50
    assert figures["train_gpu_hours"] == pytest.approx(60)
    assert figures["nodes"] == 1 and 11.25 < figures["elapsed_hours"] < 11.4
    assert figures["input_bytes"] == 60_000 * 3600 * 20_000 and figures["shards"] == 4320
    assert figures["cost_gpus"] == pytest.approx(180) and "cost" in shown and "EUR" in shown
    figures, _, _ = plan(tmp_path, *flags, "--deadline-days", 0.1)
    assert figures["nodes"] == 5 and figures["elapsed_hours"] < 2.4
    done = run_here("plan", *flags, "--deadline-days", 0.0001)
    assert_refused(done, "--deadline-days", "manifest alone")
    # Ten cores, of which eight go to the encoders: two decode, and the GPUs wait.
    figures, _, shown = plan(tmp_path, *flags, "--cores-per-node", 10)
    assert figures["node_times_real_time"] == 2000 and "decoding" in shown


def test_what_nobody_measured_is_said(tmp_path):
    _, told, _ = plan(tmp_path, "--hours", 100, "--gpu", "h100")
    assert not [text for text in told if "ASSUMED, since nobody" in text]
    _, told, _ = plan(tmp_path, "--hours", 100, "--gpu", "a100", "--layer", 9)
    unknown = [text for text in told if "ASSUMED, since nobody has measured" in text]
    assert len(unknown) == 2 and all("312" in text and "data sheet" in text for text in unknown)


def test_every_container_with_a_rate_can_be_planned(tmp_path):
    rates = json.loads((ROOT / "pipeline/capacity/rates.json").read_text())
    for name in rates:
        if name.startswith("decode/"):
            assert name.replace("decode/", "bytes/") in rates, name
    assert all("20" in rate["on"] for name, rate in rates.items() if name.startswith("decode/"))


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--gpu", "b17"], "a100"),
        (["--encoder", "hal"], "wavlm-large"),
        (["--layer", "30"], "24 layers"),
        (["--container", "zip"], "flac16"),
        (["--rates", "missing.json"], "cannot be read"),
        (["--prices", "missing.json"], "cannot be read"),
        (["--prices", "pyproject.toml"], "not JSON"),
        (["--cores-per-node", "8"], "none is left to decode"),
        (["--lm-preset", "huge"], "no rate train/huge"),
    ],
)
def test_what_cannot_be_planned(flags, problem):
    assert_refused(run_here("plan", "--hours", 1e6, *flags), flags[0], problem)


@pytest.mark.parametrize(
    ("prices", "problem"),
    [
        ({"currency": "EUR"}, "gpu_hour"),
        ({**PRICES, "moon": 1}, "moon"),
        ({**PRICES, "storage_gb_month": -1}, "-1"),
        ({**PRICES, "gpu_hour": {"l4": 1}}, "no h100"),
        ([], "no JSON object"),
    ],
)
def test_prices_that_are_none(tmp_path, prices, problem):
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    done = run_here("plan", "--hours", 10, "--prices", tmp_path / "prices.json")
    assert_refused(done, problem)
