"""jobs/evaluate.py --compare: files of figures side by side, with paired differences."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from refusals import assert_refused

from pipeline.scores.comparison import FigureFile, compare

KEYS = [f"u{number:02}" for number in range(40)]


def score(value: float, model: str = "", unit: str = "") -> dict:
    bounds = {"low": value - 0.1, "high": value + 0.1}
    return {"value": value, **bounds, "count": 40, "unit": unit, "model": model}


def figures(seed: int, better: float = 0.0, **changes) -> dict:
    """A run of 40 utterances of different difficulty: `better` by so much on each of them."""
    hard, noise = np.random.default_rng(0), np.random.default_rng(seed)
    utterances = {}
    for key in KEYS:
        words, difficulty = int(hard.integers(5, 30)), hard.uniform()
        utterances[key] = {
            "pnmi": difficulty + better + noise.normal(0, 0.01),
            "wer_errors": round(words * difficulty),
            "wer_words": words,
            "dnsmos": 3.0 if key != "u00" else None,
        }
    pnmi = float(np.mean([values["pnmi"] for values in utterances.values()]))
    scores = {"pnmi": score(pnmi), "wer": score(0.5, "whisper 1"), "dnsmos": score(3.0, "p808")}
    plain = {"tokenizer": f"t{seed}", "input": ["a.tar"], "codebook_size": 256, "pnmi": pnmi}
    return {**plain, "scores": scores, "utterances": utterances, "left_out": {}, **changes}


def write(folder: Path, **files: dict) -> list[str]:
    paths = [folder / f"{name}.json" for name in files]
    for path, content in zip(paths, files.values()):
        path.write_text(json.dumps(content))
    return [str(path) for path in paths]


def rows(stdout: str) -> dict[str, list[str]]:
    table = stdout[stdout.index("\n  ") + 1 :].splitlines()[1:]
    return {line.split()[0]: line.split()[1:] for line in table if " is not comparable" not in line}


def test_a_small_difference_is_certain_because_it_is_paired(tmp_path):
    first, second = figures(1), figures(2, better=0.05, codebook_size=1024, speakers={"s": {}})
    del second["utterances"]["u39"]
    second["utterances"]["new"] = dict(second["utterances"]["u01"])
    second["scores"]["wer"]["model"] = "whisper 2"
    second["scores"]["bitrate"] = score(500.0)
    file = tmp_path / "compared.json"
    names = write(tmp_path, a=first, b=second)
    done = run_here("evaluate", "--compare", *names, "--json", file)
    assert (done.returncode, done.stderr) == (0, "")
    shown = rows(done.stdout)
    # Utterances differ by 0.3 (standard deviation), so that each run alone is known to ± 0.1.
    before, after, difference, low, _, high, count, over = shown["pnmi"]
    assert float(after) == pytest.approx(second["pnmi"], abs=1e-4) and after != before
    assert 0.04 < float(low) < float(difference) < float(high) < 0.06
    of_key = [run["utterances"] for run in (first, second)]
    exact = [of_key[1][key]["pnmi"] - of_key[0][key]["pnmi"] for key in KEYS[:39]]
    assert float(difference) == pytest.approx(np.mean(exact), abs=1e-4)
    assert (count, over) == ("39", "utterances")
    assert shown["dnsmos"][2:] == ["+0.0000", "+0.0000", "to", "+0.0000", "38", "utterances"]
    assert shown["codebook_size"] == ["256", "1,024", "+768.0000"]
    assert shown["bitrate"] == ["-", "500.0"]
    # The words of two recognisers are not set against each other.
    assert shown["wer"] == ["0.5000", "0.5000"]
    assert "wer is not comparable, its model differs: A: whisper 1; B: whisper 2" in done.stdout
    assert "tokenizer differs: A: t1; B: t2" in done.stdout and "input" not in done.stdout
    assert "utterances of all files: 39, 1 more in A, 1 more in B" in done.stdout
    written = json.loads(file.read_text())
    assert (written["files"], written["common"], written["alone"]) == (names, 39, [1, 1])
    of_name = {row["name"]: row for row in written["rows"]}
    assert of_name["pnmi"]["values"] == [first["pnmi"], second["pnmi"]]
    assert of_name["pnmi"]["difference"]["value"] == pytest.approx(np.mean(exact))
    assert of_name["pnmi"]["difference"]["count"] == 39
    assert of_name["wer"]["conflict"] == ["model", ["whisper 1", "whisper 2"]]


def test_a_ratio_is_of_the_sums_over_what_both_have():
    def of(percent: float, *counts: tuple) -> FigureFile:
        parts = {
            f"u{n}": {"wer_errors": errors, "wer_words": words}
            for n, (errors, words) in enumerate(counts)
        }
        return FigureFile("f", {"scores": {"wer": score(percent, "asr")}, "utterances": parts})

    first, second = of(70.0, (1, 2), (6, 8)), of(1100 / 19, (0, 2), (2, 8), (9, 9))
    (row,) = compare([first, second]).rows
    assert row.difference.value == pytest.approx(100 * (2 / 10 - 7 / 10))
    assert (row.difference.low, row.difference.high) == pytest.approx((-50, -50))
    # Of a figure that is another thing than the ratio, the utterances say nothing.
    (row,) = compare([first, of(30.0, (0, 2), (2, 8))]).rows
    assert (row.difference.value, row.difference.low, row.over) == (-40, None, "")


def test_three_files_are_a_table_by_size(tmp_path):
    files = {f"k{size}": figures(1, size / 1e4, codebook_size=size) for size in (256, 512, 1024)}
    done = run_here("evaluate", "--compare", *write(tmp_path, **files))
    shown = rows(done.stdout)
    assert shown["codebook_size"] == ["256", "512", "1,024"]
    assert [float(value) for value in shown["pnmi"]] == pytest.approx(
        [content["pnmi"] for content in files.values()], abs=1e-4
    )
    assert "utterances of all files: 40" in done.stdout and "B - A" not in done.stdout


def test_what_cannot_be_compared_is_refused(tmp_path):
    run, other, broken, listed = write(
        tmp_path,
        run=figures(1),
        other={"lm": "x", "perplexity": 3.0},
        broken=figures(1, scores={"pnmi": {"low": 1}}),
        listed=figures(1, utterances=[1]),
    )
    for given, said in (
        ([run], "two files"),
        ([run, other], "no figure"),
        ([run, broken], "unknown form"),
        ([run, listed], "unknown form"),
        ([run, str(tmp_path / "none.json")], "none.json"),
    ):
        assert_refused(run_here("evaluate", "--compare", *given), "--compare", given[-1], said)
    assert run_here("evaluate").returncode == 2
    both = run_here("evaluate", "--compare", run, run, "--", "tokens")
    assert both.returncode == 2
    command = ("tokens", "--input", tmp_path, "--tokenizer", "wavlm-tiny-km256")
    before = run_here("evaluate", "--json", tmp_path / "x.json", *command)
    assert before.returncode == 2 and "--json goes behind" in before.stderr
