"""Words, phones and turns of a recording that is cut: each segment has its own, by its own time."""

import json

import numpy as np
import pytest
import soundfile
from here import ingest_here, json_of, rows_of, samples_of

from pipeline.shards.alignments import read_ctm, read_text_grid, read_tiers

RATE = 16_000
# Of a recording of 10 s, cut at 4 and 7 s: "two" lies across the first cut, "four" behind the end.
WORDS = [("one", 0.5, 1.25), ("two", 3.5, 4.5), ("three", 7.1, 7.3), ("four", 11.0, 12.0)]
SEGMENTS = [
    [("one", 0.5, 1.25), ("two", 3.5, 4.0)],
    [("two", 0.0, 0.5)],
    [("three", 0.1, 0.3)],
]
GRID = '''File type = "ooTextFile"
Object class = "TextGrid"
xmin = 0
xmax = 10
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier" name = "words" xmin = 0 xmax = 10
        intervals: size = 5
        intervals [1]: xmin = 0 xmax = 0.5 text = ""
        intervals [2]: xmin = 0.5 xmax = 3.5 text = "so ""it"""
        intervals [3]: xmin = 3.5 xmax = 4.5 text = "goes"
        intervals [4]: xmin = 4.5 xmax = 7 text = ""
        intervals [5]: xmin = 7 xmax = 10 text = "on"
    item [2]:
        class = "TextTier" name = "bells" xmin = 0 xmax = 10
        points: size = 2
        points [1]: number = 4 mark = "ding"
        points [2]: number = 10 mark = "dong"
'''
MIDDLE = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3.0
tiers? <exists>
size = 2
item []:
item [1]:
class = "IntervalTier"
name = "words"
xmin = 0
xmax = 3.0
intervals: size = 2
intervals [1]:
xmin = 0.0
xmax = 0.5
text = "goes"
intervals [2]:
xmin = 0.5
xmax = 3.0
text = ""
item [2]:
class = "TextTier"
name = "bells"
xmin = 0
xmax = 3.0
points: size = 1
points [1]:
number = 0.0
mark = "ding"
"""


def spoken(words, form):
    return [form(*word) for word in words]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(-3000, 3000, 10 * RATE).astype(np.int16)
    soundfile.write(folder / "a.wav", noise, RATE)
    return folder


def cut(folder, output):
    done = ingest_here([folder], output, segment="fixed", min_seconds=1.0, max_seconds=4.0)
    samples = samples_of(output)
    assert list(samples) == ["a-00000000-00004000", "a-00004000-00007000", "a-00007000-00010000"]
    return done, list(samples.values())


def as_word(text, start, end):
    return {"word": text, "start": start, "end": end}


def as_turn(text, start, end):
    """As WhisperX has them: words in a turn."""
    words = [as_word(text, start, end)]
    return {"start": start, "end": end, "speaker": 1, "words": words}


def as_supervision(text, start, end):
    """As lhotse has them."""
    seconds = round(end - start, 6)
    word = {"word": [[text, start, seconds, 0.9]]}
    return {"id": text, "start": start, "duration": seconds, "alignment": word}


def test_lists_of_spans_in_the_metadata(folder, tmp_path):
    odd = [
        {"start": "soon", "end": 3},
        {"start": 3, "end": 2},
        "no span",
        {"start": True, "end": 2},
    ]
    metadata = {
        "words": spoken(WORDS, as_word) + odd,
        "asr": {"segments": spoken(WORDS, as_turn)},
        "channels": [{"words": spoken(WORDS, as_word)}],
        "supervisions": spoken(WORDS, as_supervision),
        "scores": [["en", 0.5, 0.3]],
        "text": "of all",
    }
    (folder / "a.json").write_text(json.dumps(metadata))
    done, samples = cut(folder, tmp_path / "out")
    for sample, words in zip(samples, SEGMENTS, strict=True):
        found = json_of(sample)
        assert found["words"] == spoken(words, as_word)
        assert found["asr"] == {"segments": spoken(words, as_turn)}
        assert found["channels"] == [{"words": spoken(words, as_word)}]
        assert found["supervisions"] == spoken(words, as_supervision)
        assert (found["scores"], found["text"]) == (metadata["scores"], "of all")
    left = {"words": 5, "asr.segments": 1, "channels.words": 1, "supervisions": 1}
    assert done["spans_left"] == left and done["left_beside"] == {}
    # What is not cut stays as it is.
    ingest_here([folder], tmp_path / "whole")
    assert json_of(samples_of(tmp_path / "whole")["a"]) == metadata


def test_alignments_beside_the_audio(folder, tmp_path):
    ctm = "".join(f"a 1 {start} {round(end - start, 6)} {word} 0.5\n" for word, start, end in WORDS)
    for ending, text in {
        "TextGrid": GRID,
        "ctm": f";; a comment\n{ctm}a 1 nan 0.5 five\n",
        "txt": "one two three",
        "lab": "0 5000000 one",
    }.items():
        (folder / f"a.{ending}").write_text(text)
    done, samples = cut(folder, tmp_path / "out")
    assert samples[1]["TextGrid"].decode() == MIDDLE
    labels = [[span["text"] for span in read_text_grid(each["TextGrid"])] for each in samples]
    assert labels == [['so "it"', "goes"], ["goes", "ding"], ["on"]]
    for sample, words in zip(samples, SEGMENTS, strict=True):
        tiers, error = read_tiers(sample["TextGrid"])
        assert error is None and [tier.name for tier in tiers] == ["words", "bells"]
        found = [(span["text"], span["start"], span["end"]) for span in read_ctm(sample["ctm"])]
        assert found == words
    assert samples[1]["ctm"] == b"a-00004000-00007000 1 0.0 0.5 two 0.5\n"
    assert done["spans_left"] == {"TextGrid": 1, "ctm": 2}
    assert done["left_beside"] == {"lab": 1, "txt": 1}


def test_alignments_that_cannot_be_read_are_counted(folder, tmp_path):
    (folder / "a.TextGrid").write_text(GRID.replace("size = 5", "size = 50"))
    (folder / "a.json").write_text("[" * 100_000)
    done, samples = cut(folder, tmp_path / "out")
    assert done["left_beside"] == {"TextGrid": 1}
    assert all(set(sample) == {"flac", "json"} for sample in samples)
    assert sum(row["status"] == "ok" for row in rows_of(tmp_path / "out")) == 4


def test_parts_of_a_manifest_keep_their_own_times(folder, tmp_path):
    words = [as_word("two", 0.1, 0.2)]
    row = {"audio_filepath": "a.wav", "offset": 2, "duration": 3, "id": "part", "words": words}
    (folder / "a.jsonl").write_text(json.dumps(row))
    ingest_here(
        [folder / "a.jsonl"], tmp_path / "out", segment="fixed", min_seconds=1.0, max_seconds=2.0
    )
    assert json_of(samples_of(tmp_path / "out")["part"])["words"] == words
