"""jobs/evaluate.py lm: likelihoods, pairs in every layout, and the job from outside."""

import argparse
import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, SPEECH, as_flags, run_here, run_job
from refusals import assert_refused
from small_lm import small_config, train, write_tokens

from jobs.cli import flags
from jobs.cli.evaluation.lm import add_lm_command, evaluate_lm
from lm.config import LMError
from lm.evaluation.benchmarks import Pair, read_pairs
from lm.evaluation.pairs import Judged, accuracy, by_task, wilson
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


def test_ties_count_half_groups_count_once_and_the_interval_is_wilsons():
    assert wilson(0.5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert wilson(1.0, 20) == pytest.approx((0.83887, 1.0), abs=1e-5)

    def judged(group: str, positive, negative, subset=None):
        pair = Pair(
            "task", group, group=group, positive=Path("a"), negative=Path("b"), subset=subset
        )
        return Judged(pair, positive, negative)

    # Per token the first is right and the second wrong; summed the other way round; then a tie.
    pairs = [
        judged("one", (30.0, 20), (20.0, 10), "x"),
        judged("one", (20.0, 10), (30.0, 20), "x"),
        judged("one", (10.0, 10), (10.0, 10), "x"),
        judged("two", (10.0, 10), (20.0, 10), "y"),
    ]
    figures = accuracy(pairs)
    assert (figures["pairs"], figures["groups"], figures["ties"]) == (4, 2, 1)
    assert figures["accuracy_per_token"] == figures["accuracy_summed"] == 0.75
    assert figures["interval_summed"] == pytest.approx(list(wilson(0.75, 2)))
    tasks = by_task(pairs)
    assert tasks["task"]["subsets"]["y"]["accuracy_summed"] == 1.0


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def write_gold(file: Path, rows: list[dict]) -> None:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_pairs_of_every_layout(tmp_path):
    touch(tmp_path / "salmon/gender_consistency", "sample_0_0.wav", "sample_0_1.wav")
    touch(tmp_path / "salmon/gender_consistency", "sample_10_1.wav", "sample_10_0.wav")
    metadata = [{"index": 0, "group": "g"}, {"index": 10, "text": "of SALMon's own"}]
    (tmp_path / "salmon/gender_consistency/metadata.json").write_text(json.dumps(metadata))
    lexical, syntactic = tmp_path / "zr/lexical/dev", tmp_path / "zr/syntactic/dev"
    touch(lexical, "aW.wav", "aN.wav", "bW.wav", "bN.wav", "oW.wav", "oN.wav")
    touch(syntactic, "s.wav", "t.wav")
    word = {"id": 1, "voice": "A", "frequency": 7, "word": "brick", "phones": "B R", "length": 2}
    words = [
        {"filename": "aN", **word, "word": "blick", "frequency": "", "correct": 0},
        {"filename": "aW", **word, "correct": 1},
        {"filename": "bW", **word, "voice": "B", "correct": 1},
        {"filename": "bN", **word, "voice": "B", "frequency": "", "correct": 0},
        {"filename": "oW", **word, "id": 2, "frequency": 0, "correct": 1},
        {"filename": "oN", **word, "id": 2, "frequency": "", "correct": 0},
    ]
    write_gold(lexical / "gold.csv", words)
    kind = {"id": 5, "voice": "A", "type": "agreement", "subtype": "noun", "transcription": "x"}
    sentences = [{"filename": f, **kind, "correct": c} for f, c in (("s", 1), ("t", 0))]
    write_gold(syntactic / "gold.csv", sentences)
    touch(tmp_path / "tSC", "0_ab-c_correct.wav", "1_ab-c_incorrect.wav")
    touch(tmp_path / "tSC", "10_d_incorrect.wav", "11_d_correct.wav")
    touch(tmp_path / "sblimp/x", "2+good.wav", "3+bad.wav", "._3+bad.wav")
    found = {}
    for pair in read_pairs(tmp_path):
        names = (pair.positive.stem, pair.negative.stem, pair.group, pair.subset)
        found.setdefault(pair.task, []).append(names)
    assert found == {
        "salmon/gender_consistency": [
            ("sample_0_0", "sample_0_1", "g", None),
            ("sample_10_0", "sample_10_1", "10", None),
        ],
        "zr/lexical/dev": [
            ("aW", "aN", "1", "5-19"),
            ("bW", "bN", "1", "5-19"),
            ("oW", "oN", "2", "oov"),
        ],
        "zr/syntactic/dev": [("s", "t", "agreement/noun/5", "agreement")],
        "tSC": [
            ("0_ab-c_correct", "1_ab-c_incorrect", "0", None),
            ("11_d_correct", "10_d_incorrect", "5", None),
        ],
        "sblimp/x": [("2+good", "3+bad", "1", None)],
    }
    salmon = tmp_path / "salmon/gender_consistency/sample_10_0.wav"
    for break_it, said in (
        ((lexical / "oN.wav").unlink, "oN, which is not there"),
        (lambda: write_gold(lexical / "gold.csv", words[:-1]), "item 2 .* not in pairs"),
        (lambda: write_gold(lexical / "gold.csv", [{"filename": "oW"}]), "no column 'correct'"),
        (lambda: shutil.rmtree(tmp_path / "zr"), None),
        ((tmp_path / "tSC/1_ab-c_incorrect.wav").unlink, "3 recordings"),
        ((tmp_path / "tSC/7_d.wav").touch, "do not belong together"),
        (salmon.unlink, "lacks its sample_10_0"),
    ):
        break_it()
        if said:
            with pytest.raises(LMError, match=said):
                read_pairs(tmp_path)
    with pytest.raises(LMError, match="no pairs"):
        read_pairs(SPEECH)


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
    assert (figures["tokens"], figures["utterances"]) == (count, 12)
    assert figures["tokenizer"] == files.fingerprint
    (task,) = figures["pairs"][str(places / "pairs")].values()
    assert (task["pairs"], task["groups"]) == (24, 24)
    for variant in ("per_token", "summed"):
        low, high = task[f"interval_{variant}"]
        assert low < task[f"accuracy_{variant}"] <= high
    assert task["interval_per_token"][0] > 0.5
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert float(rows["bits_per_token"][1]) == pytest.approx(bits / count, abs=6e-5)
    shown = rows["voice_consistency"]
    assert float(shown[2]) == pytest.approx(task["accuracy_per_token"], abs=6e-5)
    assert float(shown[6]) == pytest.approx(task["accuracy_summed"], abs=6e-5)


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
