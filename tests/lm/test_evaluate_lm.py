"""jobs/evaluate.py lm: likelihoods, and the job from outside."""

import argparse
import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, as_flags, run_here, run_job
from refusals import assert_refused
from small_lm import small_config, train, write_tokens

from jobs.cli import flags
from jobs.cli.evaluation.lm import add_lm_command, evaluate_lm
from lm.config import LMError
from lm.evaluation.scoring import BATCH_TOKENS, bits_per_token, utterance_scores
from lm.files import read_lm, save_lm
from lm.model import SpeechLM
from lm.training.data import TokenShards
from tokenizer.errors import UsageError
from tokenizer.storage.tokenizer_files import TokenizerFiles
from tokenizer.tokenizer import Tokenizer

RATE = 16_000
TOKENIZER = ROOT / "tokenizer/pretrained/wavlm-tiny-km256"


def direct_nats(model: SpeechLM, tokens: np.ndarray) -> np.ndarray:
    """(T,) nats of each token, by one forward pass of a row that is laid out by hand."""
    chunk = model.config.chunk
    filled = [-1] * chunk + tokens.tolist() + [-2] * (-len(tokens) % chunk)
    row = torch.tensor([filled])
    logits = model(row, torch.zeros_like(row, dtype=torch.int32))[0].double()
    wanted = torch.from_numpy(tokens.astype(np.int64))
    chances = torch.log_softmax(logits[: len(tokens)], -1)
    return -chances.gather(1, wanted[:, None])[:, 0].detach().numpy()


def test_a_score_is_the_direct_sum_and_batching_changes_nothing():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    for chunk in (1, 4):
        model = SpeechLM(small_config(30, inputs="embedding", chunk=chunk, window=8)).eval()
        said = [random.integers(0, 30, size).astype(np.uint16) for size in (1, 3, 4, 41, 7, 90, 41)]
        direct = [direct_nats(model, tokens) for tokens in said]
        scores = utterance_scores(model, said)
        assert [count for _, count in scores] == [len(tokens) for tokens in said]
        assert [nats for nats, _ in scores] == pytest.approx([d.sum() for d in direct], rel=1e-5)
        for batch_tokens in (1, 100):
            again = utterance_scores(model, said, batch_tokens)
            assert np.array(again) == pytest.approx(np.array(scores), rel=1e-6)
        bits = sum(d.sum() for d in direct) / sum(map(len, said)) / math.log(2)
        assert bits_per_token(scores) == pytest.approx(bits, rel=1e-5)
        after = utterance_scores(model, said, first=[len(tokens) // 2 for tokens in said])
        assert after[5] == (pytest.approx(direct[5][45:].sum(), rel=1e-5), 45)
    # Without START: the first chunk has no score, and what is no longer than it counts nothing.
    model = SpeechLM(small_config(30, inputs="embedding", start=False, window=8)).eval()
    scores = utterance_scores(model, said)
    assert [count for _, count in scores] == [max(0, len(tokens) - 4) for tokens in said]
    for tokens, (nats, count) in zip(said, scores):
        row = torch.from_numpy(np.pad(tokens.astype(np.int64), (0, -len(tokens) % 4)))[None]
        logits = model(row, torch.zeros_like(row))[0, :count].double()
        chances = torch.log_softmax(logits, -1)[range(count), tokens[4:].astype(int)]
        assert nats == pytest.approx(-float(chances.sum()), rel=1e-5)
    after = utterance_scores(model, said, first=[2, 0, 0, 10, 0, 0, 0])
    assert after[3][1] == 31 and after[0] == (0.0, 0)
    with pytest.raises(LMError, match="no utterance has a token"):
        bits_per_token(utterance_scores(model, said[:3]))
    for wrong in ([], [30], [-1], [0.5]):
        with pytest.raises(LMError, match="utterance 0"):
            utterance_scores(model, [np.array(wrong, type(wrong[0]) if wrong else int)])
    model.head.weight.data[0] = math.nan
    with pytest.raises(LMError, match="no likelihood"):
        utterance_scores(model, said)


def syllables(kind: int, seconds: float, random: np.random.Generator) -> np.ndarray:
    """Made-up speech of a buzzing voice (0) or of a hissing one (1)."""
    times = np.arange(int(seconds * RATE)) / RATE
    hz = random.uniform(100, 130)
    buzz = sum(np.sin(2 * np.pi * hz * n * times) / n for n in range(1, 20))
    wave = (buzz / 2, random.standard_normal(len(times)))[kind]
    places = np.arange(0, seconds + 0.2, 0.1)
    beats = np.interp(times, places, random.uniform(0, 1, len(places)))
    return (0.1 * wave * beats).astype(np.float32)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """lm: a model that has heard two voices, each alone; tokens: of more such speech; pairs: of
    which the wrong one changes its voice halfway; random: a model of imported tokens; and tokens of
    another tokenizer, none, and outside the codebook."""
    folder = tmp_path_factory.mktemp("lm")
    files = TokenizerFiles.read(TOKENIZER)
    tokenizer, random = Tokenizer(files), np.random.default_rng(0)
    waves = [syllables(i % 2, random.uniform(1, 2), random) for i in range(60)]
    said = [tokenizer.encode(wave) for wave in waves]
    torch.manual_seed(0)
    model = SpeechLM.from_tokenizer(small_config(256), files)
    train(model, said[:48], 60)
    save_lm(folder / "lm", model, tokenizer=files, made_by={})
    save_lm(
        folder / "random",
        SpeechLM(small_config(256, inputs="embedding")),
        tokenizer=None,
        made_by={},
    )
    write_tokens(folder / "tokens", said[48:], codebook_size=256, tokenizer=files.fingerprint)
    write_tokens(folder / "other", said[48:], codebook_size=256, tokenizer="0123456789abcdef")
    write_tokens(folder / "imported", [np.array([1, 300])], 512)
    write_tokens(folder / "nothing", [], codebook_size=256, tokenizer=files.fingerprint)
    task = folder / "pairs/voice_consistency"
    task.mkdir(parents=True)
    for sample in range(24):
        voice, half = sample % 2, random.uniform(0.7, 1)
        first = syllables(voice, half, random)
        for option, kind in enumerate((voice, 1 - voice)):
            wave = np.concatenate([first, syllables(kind, half, random)])
            soundfile.write(task / f"sample_{sample}_{option}.wav", wave, RATE)
    shutil.copytree(folder / "pairs", folder / "broken")
    (folder / "broken/voice_consistency/sample_3_1.wav").write_bytes(b"no sound")
    return folder


def test_the_job(places):
    flags = ("--lm", places / "lm", "--input", places / "tokens", "--pairs", places / "pairs")
    done = run_job("evaluate", "lm", *flags, "--json", places / "out/figures.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((places / "out/figures.json").read_text())
    model, files = read_lm(places / "lm")
    said = [tokens for _, tokens in TokenShards.open(str(places / "tokens"))[0].utterances()]
    bits = sum(direct_nats(model, tokens).sum() for tokens in said) / math.log(2)
    count = sum(map(len, said))
    assert figures["bits_per_token"] == pytest.approx(bits / count, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(2 ** (bits / count), rel=1e-4)
    assert (figures["tokens"], figures["utterances_scored"]) == (count, 12)
    assert [each["bits_per_token_words"] for each in figures["utterances"].values()] == [
        len(tokens) for tokens in said
    ]
    scores = figures["scores"]
    for name in ("bits_per_token", "perplexity", "bits_per_second"):
        assert scores[name]["value"] == pytest.approx(figures[name])
        assert scores[name]["low"] < scores[name]["value"] < scores[name]["high"]
    assert figures["tokenizer"] == files.fingerprint
    (task,) = figures["pairs"][str(places / "pairs")].values()
    assert (task["pairs"], task["groups"]) == (24, 24)
    for variant in ("per_token", "summed"):
        low, high = task[f"interval_{variant}"]
        assert low < task[f"accuracy_{variant}"] <= high
    assert task["interval_per_token"][0] > 0.5
    score = scores["voice_consistency: accuracy_per_token"]
    assert [score["value"], score["low"], score["high"], score["count"]] == [
        task["accuracy_per_token"],
        *task["interval_per_token"],
        24,
    ]
    values = [
        group["voice_consistency: accuracy_per_token"] for group in figures["groups"].values()
    ]
    assert (len(values), np.mean(values)) == (24, pytest.approx(score["value"]))
    same = run_here("evaluate", "--compare", *[places / "out/figures.json"] * 2)
    for name, unit in (("bits_per_token", "utterances"), ("voice_consistency:", "groups")):
        (line,) = [line for line in same.stdout.splitlines() if line.startswith(name)][:1]
        assert "+0.0000 to +0.0000" in line and line.endswith(unit)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert float(rows["bits_per_token"][1]) == pytest.approx(bits / count, abs=6e-5)
    shown = rows["voice_consistency"]
    assert float(shown[2]) == pytest.approx(task["accuracy_per_token"], abs=6e-5)
    assert float(shown[6]) == pytest.approx(task["accuracy_summed"], abs=6e-5)
    assert shown[5].endswith("*")  # better than chance


# (flags in place of the usable ones, what the line must say). {p}: places.
UNUSABLE = {
    "other-tokenizer": ({"input": "{p}/other"}, "0123456789ab"),
    "no-tokens": ({"input": "{p}/nothing"}, "no tokens"),
    "no-output": ({"input": "{p}/pairs"}, "run.json"),
    "no-lm": ({"lm": "{p}/tokens"}, "config.json"),
    "no-pairs": ({"pairs": "{p}/tokens"}, "no pairs"),
    "broken-audio": ({"pairs": "{p}/broken"}, "sample_3_1.wav"),
    "outside-the-codebook": ({"lm": "{p}/random", "input": "{p}/imported"}, "token 300"),
    "pairs-without-tokenizer": (
        {"lm": "{p}/random", "pairs": "{p}/pairs", "input": None},
        "no tokenizer",
    ),
    "nothing-to-do": ({"input": None}, "--pairs"),
}


@pytest.mark.parametrize("changes, said", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_flags(places, changes, said):
    parser = argparse.ArgumentParser()
    add_lm_command(flags.add_commands(parser, "what", "WHAT"))
    given = {"lm": "{p}/lm", "input": "{p}/tokens", **changes}
    line = as_flags({name: value and value.format(p=places) for name, value in given.items()})
    args = parser.parse_args(["lm", *line])
    assert args.batch_tokens == BATCH_TOKENS
    with pytest.raises(UsageError, match=said):
        evaluate_lm(args)


def test_tokens_of_another_tokenizer_are_refused_in_one_line(places):
    done = run_here("evaluate", "lm", "--lm", places / "lm", "--input", places / "other")
    assert_refused(done, "--input", "0123456789ab")
