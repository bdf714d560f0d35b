"""What lies beside the audio, in the token shards: members as they were, spans in tokens."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
from conftest import ONE_THREAD, read_tokens, run_job
from models import distilled, small_tokenizer
from tars import recordings, tar

from pipeline.tokenize.spans import Audio, spans_of
from tokenizer.config import FocalConfig
from tokenizer.storage.token_folder import TokenFolder
from tokenizer.tokenizer import Tokenizer

# Two words and a point, in the two text forms of Praat.
SHORT_GRID = '''File type = "ooTextFile short"
"TextGrid"
0
1.5
<exists>
2
"IntervalTier"
"words"
0
1.5
3
0
0.3
"so"
0.3
0.5
""
0.5
1.5
"it ""goes"""
"TextTier"
"bells"
0
1.5
1
0.7
"ding"
'''
LONG_GRID = '''File type = "ooTextFile"
Object class = "TextGrid"
xmin = 0
xmax = 1.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.3
            text = "so"
        intervals [2]:
            xmin = 0.3
            xmax = 0.5
            text = ""
        intervals [3]:
            xmin = 0.5
            xmax = 1.5
            text = "it ""goes"""
    item [2]:
        class = "TextTier"
        name = "bells"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.7
            mark = "ding"
'''
CTM = ";; of a decoder\nu0 1 0.00 0.31 so 0.9\nu0 1 0.31 0.2 it\nu0 1 soon 0.2 goes\n"
AUDIO = Audio(duration_s=1.5, tokens=74, tokens_per_second=50)


def placed(span):
    return span["first_token"], span["end_token"]


def test_spans_that_follow_each_other_share_no_token():
    words = [
        {"start": 0, "end": 0.31, "word": "so"},
        {"start": 0.31, "end": 0.315},
        {"start": 0.315, "end": 1.55},
    ]
    found = spans_of(["words", "gone"], {"words": words, "x": 1}, {}, audio=AUDIO)
    assert list(found) == ["words"] and found["words"][0] == {
        **words[0],
        "first_token": 0,
        "end_token": 15,
    }
    assert [placed(span) for span in found["words"]] == [(0, 15), (15, 16), (16, 74)]


@pytest.mark.parametrize(
    ("span", "error"),
    [
        ({"start": "0.1", "end": 1}, "its start is no number"),
        ({"start": 0.1}, "its end is no number"),
        ({"start": 0.1, "end": float("inf")}, "its end is no number"),
        ({"start": 0.5, "end": 0.4}, "it ends before it starts"),
        ({"start": -0.5, "end": 0.4}, "it starts before the audio"),
        ({"start": 0.5, "end": 1.7}, "it ends after the audio, of 1.5 s"),
    ],
)
def test_bad_spans_are_kept_and_say_why(span, error):
    good = {"start": 0.5, "end": 1.0}
    found = spans_of(["a"], {"a": [span, good]}, {}, audio=AUDIO)["a"]
    assert found[0] == {**span, "span_error": error} and placed(found[1]) == (25, 50)
    assert spans_of(["a"], {"a": "x"}, {}, audio=AUDIO) == {
        "a": [{"value": "x", "span_error": "it is no list"}]
    }
    assert spans_of(["a"], {"a": [7]}, {}, audio=AUDIO) == {
        "a": [{"value": 7, "span_error": "it is no JSON object"}]
    }


@pytest.mark.parametrize("text", [SHORT_GRID.encode(), LONG_GRID.encode("utf-16"), b"x" * 9])
def test_text_grids(text):
    found = spans_of(["TextGrid"], None, {"TextGrid": text}, audio=AUDIO)["TextGrid"]
    if text == b"x" * 9:
        assert len(found) == 1 and "no TextGrid" in found[0]["span_error"]
        return
    read = [(span["tier"], span["text"], *placed(span)) for span in found]
    assert read[0] == ("words", "so", 0, 15) and read[1][2:] == (25, 74)
    assert read[1][1] == 'it "goes"' and read[2] == ("bells", "ding", 35, 35)


@pytest.mark.parametrize("factors", [(), (2,), (2, 2)])
def test_tokens_cut_by_a_span_are_those_of_its_sound(tmp_path, factors):
    """Two recordings, joined: the best place to cut the second one's tokens is that of its span."""
    files = small_tokenizer(tmp_path, codes=32)
    if factors:
        shape = FocalConfig(width=64, latent=8, hidden=(16,) * len(factors), factors=factors)
        files = distilled(files, shape)
    tokenizer = Tokenizer(files)
    rng = np.random.default_rng(0)
    one, two = (rng.normal(size=n * 1280).astype(np.float32) / 9 for n in (20, 40))
    whole = tokenizer.encode(np.concatenate([one, two, one]))
    span = {"start": len(one) / 16_000, "end": (len(one) + len(two)) / 16_000}
    audio = Audio(4.0 + 2.4, len(whole), 50 / 2 ** len(factors))
    ((found,),) = spans_of(["a"], {"a": [span]}, {}, audio=audio).values()
    first, end = placed(found)
    alone = tokenizer.encode(two)
    assert end - first in (len(alone), len(alone) + 1)
    same = [(whole[first + n :][: len(alone)] == alone).mean() for n in range(-3, 4)]
    # The steps differ in how many codes are in use, and so in how many are equal by chance.
    assert np.argmax(same) == 3 and same[3] > max(same[:3] + same[4:]) + 0.1, same


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """with/: samples with members beside them. without/: the same without. Names of audio are u0,
    u1, u2; the json of u2 comes last of all.
    """
    folder = tmp_path_factory.mktemp("shards")
    sounds = list(recordings().values())[:3]
    audio = [(f"u{n}.flac", sound) for n, sound in enumerate(sounds)]
    words = json.dumps({"words": [{"start": 0.1, "end": 0.4}, {"start": 9999, "end": 0}]}).encode()
    members = [
        audio[0],
        ("u0.txt", "grüße\n".encode()),
        ("u0.TextGrid", SHORT_GRID.encode()),
        ("u0.ctm", CTM.encode()),
        ("u0.json", words),
        audio[1],
        ("u1.big", bytes(3 << 19)),
        ("u1.tokens.npy", b"no tokens"),
        ("u1.x.tokens.npy", b"no tokens"),
        audio[2],
        ("u0.lab", b"behind the next sample"),
        ("u2.json", words),
    ]
    for name in ("with", "without"):
        (folder / name).mkdir()
        wanted = [m for m in members if name == "with" or m[0].endswith(("flac", "json"))]
        (folder / name / "a.tar").write_bytes(tar(*wanted))
    durations = [soundfile.info(io.BytesIO(sound)).duration for sound in sounds]
    return folder, dict(members), min(durations)


def tokenized(shards, output, *flags):
    folder = shards[0] / ("without" if "without" in str(output) else "with")
    place = ("--input", folder, "--output", output, "--tokenizer", "wavlm-tiny-km256")
    done = run_job("tokenize", *place, *flags, *ONE_THREAD)
    assert done.returncode == 0, done.stderr
    with tarfile.open(output / "shards/a.tar") as archive:
        members = {info.name: archive.extractfile(info).read() for info in archive}
    return done.stdout, members, json.loads((output / "run.json").read_text())["settings"]


def test_members_travel_and_spans_get_their_tokens(shards, tmp_path):
    _, sources, shortest = shards
    assert shortest > 1.5
    fields = ("--spans", "words", "--spans", "TextGrid", "--spans", "ctm", "--spans", "wrods")
    text, members, settings = tokenized(shards, tmp_path / "out", *fields)
    assert list(members)[:5] == ["u0.tokens.npy", "u0.json", "u0.txt", "u0.TextGrid", "u0.ctm"]
    for name in ("u0.txt", "u0.TextGrid", "u0.ctm"):
        assert members[name] == sources[name]
    assert [name for name in members if name.startswith("u1")] == ["u1.tokens.npy", "u1.json"]
    assert "left out beside the audio: 1 big, 1 lab, 2 npy" in text
    assert "spans of words: 2 have their tokens, and 2 could not be placed" in text
    assert "spans of wrods" not in text and settings["spans"] == sorted(fields[1::2])
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["left_beside"] == {"big": 1, "lab": 1, "npy": 2}
    assert summary["spans"] == {"TextGrid": 3, "ctm": 2, "words": 2}
    assert summary["span_errors"] == {"ctm": 1, "words": 2}
    about = {key: json for key, (_, json) in read_tokens(tmp_path / "out/shards/a.tar").items()}
    for key in ("u0", "u2"):  # also where its json comes behind its tokens
        first, second = about[key]["spans"]["words"]
        assert placed(first) == (5, 20) and second["span_error"]
        assert "first_token" not in about[key]["metadata"]["words"][0]
    assert "spans" not in about["u1"]
    read = list(TokenFolder.open(str(tmp_path / "out")).read("a"))
    assert [utterance.key for utterance in read] == ["u0", "u1", "u2"]
    assert read[0].about == about["u0"]


def test_keep_none_gives_the_bytes_of_audio_without_anything_beside_it(shards, tmp_path):
    text, nothing, settings = tokenized(shards, tmp_path / "none", "--keep", "none")
    assert settings["keep"] == [] and "1 ctm" in text and "1 txt" in text
    _, without, settings = tokenized(shards, tmp_path / "without")
    assert nothing == without and not {"keep", "spans"} & set(settings)
    one, other = (tmp_path / name / "shards/a.tar" for name in ("none", "without"))
    assert one.read_bytes() == other.read_bytes()
    _, some, settings = tokenized(shards, tmp_path / "some", "--keep", ".textgrid,lab")
    assert set(some) - set(nothing) == {"u0.TextGrid"} and settings["keep"] == ["lab", "textgrid"]
