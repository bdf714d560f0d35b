"""lm/evaluation: pairs of recordings in every layout, and the share of them that is right."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from conftest import SPEECH

from lm.config import LMError
from lm.evaluation.benchmarks import Pair, read_pairs
from lm.evaluation.pairs import Judged, accuracy, by_task, wilson


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
