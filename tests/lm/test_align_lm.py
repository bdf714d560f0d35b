"""jobs/align_lm.py: what direct preference optimisation changes, resuming, triples, and the job."""

import copy
import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import as_flags, run_here, run_job
from refusals import assert_refused, assert_refused_after_bar
from small_lm import small_config, train, write_tokens

from lm.config import LMError
from lm.files import read_lm, save_lm
from lm.generation import Generator
from lm.model import SpeechLM
from lm.training.preference import (
    PreferenceTuning,
    batch_of,
    continuation_nats,
    figures,
    scored,
    split,
)
from lm.training.settings import PreferenceSettings, TripleSettings
from lm.training.triples import Triple, make_triples, read_triples, write_triples
from tokenizer.storage.folder import Folder
from tokenizer.training.settings import RuntimeSettings

CODES = 24
# The shape of a model whose tokenizer is "abc".
NAMED = small_config(CODES, inputs="embedding", chunk=2, tokenizer="abc")


def utterance(random: np.random.Generator, size: int = 48) -> np.ndarray:
    """Of a Markov chain: a code is followed by one of the three after it, the nearest oftenest."""
    steps = random.choice([1, 2, 3], size, p=[0.6, 0.3, 0.1])
    return (random.integers(CODES) + np.cumsum(steps)) % CODES


@pytest.fixture(scope="module")
def model():
    """A model of such utterances. Tests tune copies of it."""
    torch.manual_seed(0)
    made = SpeechLM(small_config(CODES, inputs="embedding", chunk=2))
    random = np.random.default_rng(0)
    train(made, [utterance(random) for _ in range(100)], 80)
    return made


@pytest.fixture(scope="module")
def triples():
    """Chosen continuations have even codes, rejected ones odd codes; the model knows neither."""
    random, made = np.random.default_rng(1), []
    for number in range(60):
        even, odd = (2 * random.integers(CODES // 2, size=12) + side for side in (0, 1))
        # Lengths differ, and prompts end within a chunk.
        size = 8 + number % 5
        made.append(
            Triple(
                f"t{number}", utterance(random, 9 + number % 7), chosen=even[:size], rejected=odd
            )
        )
    return made


def tuned(model, triples, folder, show=lambda *_: None, **changes):
    """A finished tuning of a copy, and its figures before and after."""
    settings = PreferenceSettings(**{"steps": 30, "rows": 8, "learning_rate": 2e-3} | changes)
    learning, held_out = split(triples, 0.25, 0)
    output = Folder(str(folder))
    tuning = PreferenceTuning(
        copy.deepcopy(model),
        learning,
        held_out=held_out,
        settings=settings,
        output=output,
        show=show,
        runtime=RuntimeSettings(device="cpu", checkpoint_minutes=1e-9, log_every=5),
    )
    return tuning, *tuning.run(None, {})


@pytest.mark.parametrize("per_token, beta", [(False, 0.1), (True, 2.0)])
def test_tuning_raises_the_margin_of_triples_it_has_not_seen(
    model, triples, tmp_path, per_token, beta
):
    tuning, before, after = tuned(model, triples, tmp_path, per_token=per_token, beta=beta)
    parts = [{triple.key for triple in part} for part in (tuning.held_out, tuning.triples)]
    assert list(map(len, parts)) == [15, 45] and not parts[0] & parts[1]
    # Before tuning, no continuation has a gain.
    assert before["reward_margin"] == 0 and before["reward_accuracy"] == 0.5
    assert 0.1 < before["likelier"] < 0.9
    assert after["reward_accuracy"] == after["likelier"] == 1.0
    assert after["reward_margin"] > 0.5
    assert after["chosen_bits"] < after["rejected_bits"]
    log = (tmp_path / "training/log.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    assert lines[0]["loss"] < math.log(2) + 0.05 and lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["reward_accuracy"] > 0.9 and lines[-1]["reward_margin"] > 0.5
    # The tuned model was written, and gains are relative to the model before tuning.
    written, _ = read_lm(tmp_path / "model")
    held_out = tuning.held_out
    nats = [scored(one, held_out, False) for one in (written, model)]
    found = figures(*nats, held_out, beta=beta, per_token=per_token)
    assert found == pytest.approx(after, rel=1e-3)


def test_a_continuation_is_scored_after_its_prompt_alone(model, triples):
    nats = continuation_nats(model, triples[:9], per_token=False)
    assert scored(model, triples[:9], False).numpy() == pytest.approx(
        nats.detach().numpy(), rel=1e-4
    )
    mean = continuation_nats(model, triples[:9], per_token=True).detach().numpy()
    for triple, summed, per_token in zip(triples, nats.detach().numpy(), mean):
        for tokens, total, each in zip((triple.chosen, triple.rejected), summed, per_token):
            row = [-1, -1, *triple.prompt, *tokens]
            row = torch.tensor([row + [-2] * (len(row) % 2)])
            logits = model(row, torch.zeros_like(row, dtype=torch.int32))[0]
            chances = torch.log_softmax(logits, -1)
            begin = len(triple.prompt)
            direct = -sum(float(chances[begin + i, code].detach()) for i, code in enumerate(tokens))
            assert total == pytest.approx(direct, rel=1e-4)
            assert each == pytest.approx(direct / len(tokens), rel=1e-4)


def test_a_tuning_that_was_stopped_ends_as_one_that_was_not(model, triples, tmp_path):
    whole, *_ = tuned(model, triples, tmp_path / "whole", steps=20)

    def stop(name: str, step: int, *_):
        if (name, step) == ("tune", 13):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(model, triples, folder=tmp_path / "stopped", show=stop, steps=20)
    assert not (tmp_path / "stopped/model").exists()
    again, *_ = tuned(model, triples, tmp_path / "stopped", steps=20)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    assert [line["step"] for line in again.lines] == [5, 10, 15, 20]
    # Each triple is used once before any is used again.
    seen = [place for step in range(5) for place in batch_of(10, 4, step=step, seed=0)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_triples_of_real_utterances_against_the_models_own(model, tmp_path):
    random = np.random.default_rng(2)
    real = [(f"u{i}", utterance(random, 10 + 4 * i)) for i in range(8)]
    settings = TripleSettings(prompt_tokens=15, continuation_tokens=12, most=5, batch=2)
    made = list(make_triples(Generator(model), iter(real), settings))
    # u0 and u1, of 10 and 14 tokens, and u2, of 18, are too short.
    assert [triple.key for triple in made] == ["u3", "u4", "u5", "u6", "u7"]
    for triple in made:
        tokens = dict(real)[triple.key]
        assert np.array_equal(triple.prompt, tokens[:15])
        assert np.array_equal(triple.chosen, tokens[15:27])
        assert len(triple.rejected) == len(triple.chosen) and triple.rejected.max() < CODES
    assert any(not np.array_equal(triple.chosen, triple.rejected) for triple in made)
    data = write_triples(made, "abc")
    assert data == write_triples(list(make_triples(Generator(model), real, settings)), "abc")
    for content in (data, gzip.decompress(data)):
        for triple, again in zip(made, read_triples(content, NAMED), strict=True):
            assert again.key == triple.key
            for part in ("prompt", "chosen", "rejected"):
                assert np.array_equal(getattr(again, part), getattr(triple, part))
    (slam,) = read_triples(
        b'{"prompt": {"units": [1]}, "chosen": {"audio_repr": "<Un2><Un3>"}, "rejected": [4]}',
        replace(NAMED, tokenizer=None),
    )
    assert (slam.prompt.tolist(), slam.chosen.tolist()) == ([1], [2, 3])


GOOD = {"key": "a", "prompt": [1], "chosen": [2], "rejected": [3]}
BROKEN = {
    "nothing": ("\n", "no triples"),
    "no-json": ('{"prompt"', "line 1 is not JSON"),
    "no-object": ("[]", 'line 1 has no "prompt"'),
    "no-part": (json.dumps(GOOD) + '\n{"prompt": [1], "chosen": [1]}', 'line 2 has no "rejected"'),
    "empty": (json.dumps({**GOOD, "prompt": []}), '"prompt" of line 1 has no tokens'),
    "nan": (
        '{"prompt": [1], "chosen": [NaN], "rejected": [1]}',
        '"chosen" of line 1 is not a list',
    ),
    "fraction": (json.dumps({**GOOD, "chosen": [1.5]}), '"chosen" of line 1 is not a list'),
    "high": (json.dumps({**GOOD, "rejected": [CODES]}), f"token {CODES}, and the codebook has"),
    "huge": (json.dumps({**GOOD, "rejected": [1 << 70]}), "not a code"),
    "negative": (json.dumps({**GOOD, "rejected": [-1]}), "token -1"),
    "other-tokenizer": (json.dumps({**GOOD, "tokenizer": "feed"}), "of tokenizer feed"),
    "cut-gzip": (gzip.compress(b"x" * 999)[:-9], "neither UTF-8 text nor gzip"),
}


@pytest.mark.parametrize("content, said", BROKEN.values(), ids=BROKEN)
def test_broken_triples_are_named_with_their_line(content, said):
    with pytest.raises(LMError, match=said):
        read_triples(content if isinstance(content, bytes) else content.encode(), NAMED)


def test_a_prompt_needs_a_chunk_where_there_is_no_start():
    plain, line = replace(NAMED, start=False), {**GOOD, "prompt": [1, 2]}
    assert len(read_triples(json.dumps(line).encode(), plain)) == 1
    with pytest.raises(LMError, match=r'"prompt" of line 2 has 1 tokens.* continues 2'):
        read_triples("\n".join(map(json.dumps, (line, GOOD))).encode(), plain)


@pytest.fixture(scope="module")
def places(model, tmp_path_factory):
    """lm, tokens that it models, and triples outside its codebook; a model that is not finite."""
    folder = tmp_path_factory.mktemp("align")
    random = np.random.default_rng(3)
    save_lm(folder / "lm", model, tokenizer=None, made_by={})
    plain = SpeechLM(small_config(CODES, inputs="embedding", start=False))
    save_lm(folder / "plain", plain, tokenizer=None, made_by={})
    broken = copy.deepcopy(model)
    broken.head.weight.data[0] = math.nan
    save_lm(folder / "nan", broken, tokenizer=None, made_by={})
    write_tokens(folder / "tokens", [utterance(random) for _ in range(40)], CODES)
    write_tokens(folder / "short", [utterance(random, 10)], CODES)
    write_tokens(
        folder / "named", [utterance(random)], codebook_size=CODES, tokenizer="0123456789abcdef"
    )
    (folder / "high.jsonl").write_text(json.dumps({**GOOD, "chosen": [CODES]}))
    (folder / "good.jsonl").write_text((json.dumps(GOOD) + "\n") * 3)
    return folder


def test_the_job_makes_triples_and_learns_from_them(places):
    output = places / "out"
    flags = ("--lm", places / "lm", "--make-triples", places / "tokens", "--output", output)
    making = ("--prompt-tokens", 20, "--continuation-tokens", 20, "--most-triples", 30)
    done = run_job("align_lm", *flags, *making, "--steps", 12, "--learning-rate", 1e-3)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:3] for line in done.stdout.splitlines()}
    assert float(rows["reward_accuracy"][0]) == 0.5 and float(rows["reward_margin"][0]) == 0
    assert float(rows["reward_margin"][1]) > 0
    lines = gzip.decompress((output / "triples.jsonl.gz").read_bytes()).decode().splitlines()
    assert len(lines) == 30 and len(json.loads(lines[0])["rejected"]) == 20
    model, tokenizer = read_lm(output / "model")
    assert tokenizer is None and model.config.codebook_size == CODES
    # Again: nothing is learnt twice. With other flags: refused.
    before = (output / "training/log.jsonl").read_bytes()
    again = run_job("align_lm", *flags, *making, "--steps", 12, "--learning-rate", 1e-3)
    assert again.stdout == done.stdout and (output / "training/log.jsonl").read_bytes() == before
    other = run_here("align_lm", *flags, *making, "--steps", 13)
    assert_refused(other, "--output", "other settings")


# (flags in place of --make-triples TOKENS, what the line must say). {p}: places.
UNUSABLE = {
    "outside-the-codebook": ({"triples": "{p}/high.jsonl"}, f"token {CODES}"),
    "no-file": ({"triples": "{p}/nothing.jsonl"}, "--triples"),
    "no-lm": ({"lm": "{p}/tokens", "triples": "{p}/good.jsonl"}, "config.json"),
    "other-tokenizer": ({"make-triples": "{p}/named"}, "0123456789ab"),
    "too-short": ({"make-triples": "{p}/short", "prompt-tokens": "20"}, "4 tokens more"),
    "short-prompt": (
        {"lm": "{p}/plain", "make-triples": "{p}/tokens", "prompt-tokens": "3"},
        "continues 4 or more",
    ),
    "not-finite": ({"lm": "{p}/nan", "triples": "{p}/good.jsonl"}, "not finite"),
}


@pytest.mark.parametrize("changes, said", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_flags(places, tmp_path, changes, said):
    given = {"lm": "{p}/lm", "output": str(tmp_path / "out"), **changes}
    flags = as_flags({name: value.format(p=places) for name, value in given.items()})
    done = run_here("align_lm", *flags)
    assert_refused_after_bar(done, said)
