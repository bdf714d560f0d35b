"""jobs/evaluate.py tokens with scores, from outside: its file is what the models give by hand."""

import json
import sys
import tarfile
from importlib.util import find_spec

import jiwer
import numpy as np
import pytest
import torch
from conftest import ONE_THREAD, SPEECH, run_here, run_job
from refusals import assert_refused

from pipeline.scores import naturalness
from pipeline.scores.bootstrap import mean_interval, ratio_interval
from pipeline.scores.recognition import Recognizer
from pipeline.scores.speakers import XVectors, similarity
from pipeline.shards.inputs import find_shards
from pipeline.shards.reading import open_shard, read_utterances
from tokenizer.tokenizer import Tokenizer

pytest_plugins = ("small_models",)
KEYS = ("awb-s00", "awb-s01", "en-us-f4-s00")
WITHOUT_TEXT = "awb-s01"
TOKENIZER = "wavlm-tiny-d1024"


class Loudest(torch.nn.Module):
    """Stands for UTMOS."""

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return 1.0 + wave.abs().amax(dim=1)


@pytest.fixture(scope="module")
def places(tmp_path_factory, models):
    """input.tar with three utterances, one of them without its json, and utmos/."""
    folder = tmp_path_factory.mktemp("scores")
    with tarfile.open(folder / "input.tar", "w") as tar:
        for path in sorted(SPEECH.glob("*.tar")):
            with tarfile.open(path) as source:
                for member in source:
                    key, _, ending = member.name.partition(".")
                    if key in KEYS and (key, ending) != (WITHOUT_TEXT, "json"):
                        tar.addfile(member, source.extractfile(member))
    (folder / "utmos").mkdir()
    torch.jit.script(Loudest()).save(str(folder / "utmos/utmos.jit"))
    return folder


def by_hand(shard) -> dict[str, dict[str, np.ndarray]]:
    """{key: original and resynthesis}, by the tokenizer's own API."""
    tokenizer, found = Tokenizer.from_pretrained(TOKENIZER), {}
    (each,) = find_shards([str(shard)])[1]
    with open_shard(each) as stream:
        for sample, utterance, _ in read_utterances(stream, 1 << 20):
            wave = np.asarray(utterance.waveform, np.float32)
            made = tokenizer.decode(tokenizer.encode(wave))
            found[sample.key] = {"original": wave, "made": made}
    return found


# Figures with intervals that no model takes.
OURS = ("feature_error", "top_cosine", "log_mel_distance", "tokens_back")


@pytest.mark.slow
def test_scores_are_those_of_the_models(places, models):
    file = places / "figures.json"
    done = run_job(
        *("evaluate", "tokens", "--input", places / "input.tar", "--tokenizer", TOKENIZER),
        *("--encoder", "wavlm-tiny", "--json", file, *ONE_THREAD),
        *("--asr", models / "ctc", "--speaker-model", models / "x-vector"),
        *("--utmos", places / "utmos"),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    utterances = figures["utterances"]
    assert set(utterances) == set(KEYS) and figures["utterances_tokenized"] == 3
    scores = {name: score for name, score in figures["scores"].items() if score["model"]}
    assert figures["scores"].keys() - scores == set(OURS)
    sounds = by_hand(places / "input.tar")
    for key, pair in sounds.items():
        found = utterances[key]
        for name, value in naturalness.dnsmos(pair["made"]).items():
            assert found[f"dnsmos_{name}"] == pytest.approx(value, abs=2e-3)
        loudest = 1 + np.abs(pair["original"]).max()
        assert found["utmos_of_original"] == pytest.approx(loudest, abs=1e-3)
    voices = XVectors(str(models / "x-vector"))
    for key, pair in sounds.items():
        alike = 100 * similarity(*voices.embeddings([pair["original"], pair["made"]]))
        assert utterances[key]["speaker_similarity"] == pytest.approx(alike, abs=0.05)
    recognizer = Recognizer(str(models / "ctc"))
    heard = {
        kind: list(map(recognizer.normalize, recognizer.texts([p[kind] for p in sounds.values()])))
        for kind in ("original", "made")
    }
    assert scores["dwer"]["value"] == pytest.approx(100 * jiwer.wer(*heard.values()), abs=0.5)
    assert scores["dcer"]["value"] == pytest.approx(100 * jiwer.cer(*heard.values()), abs=0.5)
    counts = [(each["dwer_errors"], each["dwer_words"]) for each in utterances.values()]
    assert ratio_interval(*np.array(counts).T).scaled(100).low == scores["dwer"]["low"]

    # A transcript that one of them lacks is said, and so is what each score is of.
    assert utterances[WITHOUT_TEXT]["wer_errors"] is None
    assert figures["unscored"]["wer"] == {"it has no transcript": 1}
    assert (scores["wer"]["count"], scores["dwer"]["count"]) == (2, 3)
    made = {name for name in scores if not name.endswith(("_of_original", "_of_copy"))}
    assert made >= {"utmos", "dnsmos_ovrl", "f0_correlation", "voicing_error", "stoi"}
    assert ("pesq" in made) == bool(find_spec("pesq"))
    assert {f"{name}_of_copy" for name in made} <= set(scores)
    assert {name for name in scores if name.endswith("_of_original")} == {
        f"{name}_of_original"
        for name in ("utmos", "wer", *(f"dnsmos_{part}" for part in naturalness.DNSMOS))
    }
    for name, score in scores.items():
        assert set(score) == {"value", "low", "high", "count", "unit", "model"} and score["model"]
        if name in utterances["awb-s00"]:
            values = [each[name] for each in utterances.values()]
            known = [value for value in values if value is not None]
            # A breathy vocoder may have too few voiced frames for a correlation.
            missing = sum(figures["unscored"].get(name, {}).values())
            assert (score["count"], missing) == (len(known), 3 - len(known)), name
            assert mean_interval(known).value == pytest.approx(score["value"])
        if score["count"] > 1:
            assert score["low"] <= score["value"] <= score["high"], name
    assert "jiwer 4.0.0" in scores["dwer"]["model"] and "pystoi" in scores["stoi"]["model"]
    # The vocoder alone loses less than vocoder and codebook do.
    assert scores["stoi_of_copy"]["value"] > scores["stoi"]["value"]

    lines = done.stdout.splitlines()
    (row,) = [line.split() for line in lines if line.startswith(f"{TOKENIZER} ")]
    assert row[1:3] == ["0.50", "50.00"] and f"{scores['dwer']['value']:.1f}" in row
    for name in ("original", "copy-synthesis"):
        assert any(line.startswith(f"{name} ") for line in lines)
    assert any(line.startswith("wer: 1 without: it has no transcript") for line in lines)


def test_unusable_flags(places, models, monkeypatch):
    usable = ("evaluate", "tokens", "--input", places / "input.tar", "--tokenizer")

    def refused(*flags, said, tokenizer=TOKENIZER):
        assert_refused(run_here(*usable, tokenizer, *flags), *said)

    refused("--asr", places / "nothing", said=("--asr", "no such folder"))
    refused("--asr", models / "x-vector", said=("--asr", "it is a WavLMForXVector"))
    refused("--speaker-model", models / "ctc", said=("--speaker-model", "it is a Wav2Vec2ForCTC"))
    refused("--utmos", models / "ctc", said=("--utmos", "no TorchScript file"))
    refused("--asr", models / "whisper", "--language", "tlh", said=("--language tlh", "de, en"))
    refused("--scores", "dwer", said=("--scores dwer", "give --asr"))
    refused("--scores", "none", "pesq", said=("--scores none pesq",))
    no_vocoder = {"tokenizer": "wavlm-tiny-km256", "said": ("wavlm-tiny-km256", "no vocoder")}
    refused("--scores", "stoi", **no_vocoder)
    refused("--asr", models / "ctc", **no_vocoder)
    monkeypatch.setitem(sys.modules, "pesq", None)  # as if it were not installed
    refused("--scores", "pesq", said=("--scores pesq", "pip install 'wavmill[scores]'"))
