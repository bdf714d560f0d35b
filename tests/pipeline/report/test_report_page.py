"""jobs/report.py: what its page says, how it looks and sounds in a browser, and what it costs."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from browser import chromium, opened
from conftest import ROOT, run_here
from ray_cluster import environment
from report_outputs import (
    FIGURES,
    TOKENIZER,
    continued,
    fake_utterances,
    tokenized_speech,
    trained_lm,
)

from pipeline.report.frame_index import FrameIndex

PLAY = """async () => {
    const heard = [];
    for (const audio of document.querySelectorAll("audio")) {
        const moves = new Promise((done) => {
            audio.ontimeupdate = () => { if (audio.currentTime > 0) done(); };
        });
        await audio.play();
        await moves;
        heard.push(audio.duration > 0);
        audio.pause();
    }
    return heard;
}"""
# For `python -c`: runs a job, and says how much memory its process has had, in MB.
MEASURED = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the page, {key: tokens} of its OUTPUT): all that a report can have."""
    folder = tmp_path_factory.mktemp("report")
    tokens = tokenized_speech(folder / "tokens", 6)
    (folder / "figures.json").write_text(json.dumps(FIGURES))
    flags = ("--tokens", folder / "tokens", "--figures", folder / "figures.json")
    flags += ("--lm", trained_lm(folder / "lm"), "--continuations", continued(folder / "heard"))
    done = run_here("report", *flags, "--output", folder / "out/report.html", "--codes", 4)
    assert done.returncode == 0, done.stderr
    return folder / "out/report.html", tokens


def test_the_page_says_what_is_in_the_output(made):
    page, tokens = made
    text = page.read_text()
    counts = np.bincount(np.concatenate(list(tokens.values())), minlength=1024)
    shares = counts[counts > 0] / counts.sum()
    perplexity = np.exp(-(shares * np.log(shares)).sum())
    tiles = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
    assert tiles["utterances"] == "7" and tiles["rejected"] == "1 (14.3%)"
    assert tiles["tokens"] == f"{counts.sum():,}"
    assert tiles["dead"].split()[0] == f"{(counts == 0).sum():,}"
    assert float(tiles["perplexity"]) == pytest.approx(perplexity, rel=0.01)
    assert float(tiles["bit/s, by entropy"]) == pytest.approx(50 * np.log2(perplexity), rel=0.01)
    assert "truncated_audio" in text and "limited by encode" in text
    # Of each utterance all tokens, under its spectrogram.
    shown = [json.loads(codes) for codes in re.findall(r'data-codes="([^"]*)"', text)]
    assert sorted(shown) == sorted(codes.tolist() for codes in tokens.values())
    # The interval of a figure, the model's share, and what others have published: SALMon's own
    # leaderboard, and the file.
    assert "3.1 to 3.4" in text and "0.675 to 0.796" in text
    assert "0.710, TWIST 7B" in text and "0.812, WavSLM" in text


@pytest.fixture(scope="module")
def browser():
    """A Chromium for all tests of this file."""
    with chromium() as started:
        yield started


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_in_a_browser(browser, made, width, scheme):
    """Nothing is logged or asked for; charts answer to pointer and keys; all of it plays."""
    with opened(browser, made[0], width=width, scheme=scheme) as page:
        plots = page.locator(".plot")
        assert plots.count() == 8
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for place in range(plots.count()):
            plots.nth(place).hover()
            assert page.locator("#tip").is_visible()
        page.keyboard.press("Tab")
        sound = page.locator(".sound").first
        sound.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        codes = json.loads(sound.get_attribute("data-codes"))
        assert page.locator("#tip").inner_text() == f"0.02 s: code {codes[1]}"
        page.keyboard.press("Escape")
        assert page.locator("#tip").is_hidden()
        # Six originals and six resyntheses; prompt, continuation, and both.
        assert page.evaluate(PLAY) == [True] * 15
        page.locator("button.snippet").first.click()
        page.locator("button.snippet[data-played]").wait_for(state="visible")
        unnamed = "img:not([alt]), svg:not([aria-label]), audio:not([aria-label])"
        assert page.locator(unnamed).count() == 0


def test_of_a_code_all_frames_are_as_likely():
    """Frames come in blocks; what is kept is of the code, and from anywhere."""
    random, places = np.random.default_rng(1), []
    for seed in range(60):
        index = FrameIndex([3, 5], each=8, seed=seed)
        tokens = random.integers(0, 6, 4000)
        for block in range(4):
            part = slice(1000 * block, 1000 * block + 1000)
            index.add(tokens[part], np.full(1000, block), np.arange(1000))
        found = [1000 * place.utterance + place.frame for place in index.places(3)]
        assert len(set(found)) == 8 and (tokens[found] == 3).all()
        assert not index.places(4)
        places += found
    assert np.mean(places) == pytest.approx(2000, abs=200)
    assert np.bincount(np.array(places) // 1000).min() > 80


@pytest.mark.slow
def test_a_hundred_thousand_utterances_take_no_more_memory(tmp_path, request):
    """Than a thousand."""
    needed = {}
    for shards in (1, 100):
        output = fake_utterances(tmp_path / f"{shards}", shards, 1000)
        flags = ("--tokens", output, "--output", tmp_path / f"{shards}.html", "--device", "cpu")
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "jobs/report.py", *map(str, flags)],
            cwd=ROOT,
            env=environment({}),
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr
        needed[shards] = int(re.search(r"^MB (\d+)", done.stdout, re.M)[1])
    assert needed[100] < needed[1] + 30
    text = (tmp_path / "100.html").read_text()
    assert "<dd>100,000</dd>" in text and "were imported" in text
    with opened(request.getfixturevalue("browser"), tmp_path / "100.html") as page:
        assert page.locator(".plot").count() >= 3
        assert page.locator(".sound").count() == 12


def test_without_sound_the_rest_is_shown(made, tmp_path):
    """The inputs have moved, and the tokenizer is not the one: said on the page and on stderr."""
    shutil.copytree(made[0].parent.parent / "tokens", tmp_path / "tokens")
    record = json.loads((tmp_path / "tokens/run.json").read_text())
    record |= {"inputs": "file:///gone", "tokenizer_source": "wavlm-tiny-km256"}
    (tmp_path / "tokens/run.json").write_text(json.dumps(record))
    page = tmp_path / "report.html"
    done = run_here("report", "--tokens", tmp_path / "tokens", "--output", page)
    assert done.returncode == 0
    text = page.read_text()
    assert "<audio" not in text and text.count('class="strip"') == 6
    for missing in ("their inputs are not where they were", "There is no resynthesis"):
        assert missing in text and missing in done.stderr
    moved = ("--audio", "tests/speech", "--tokenizer", TOKENIZER)
    done = run_here("report", "--tokens", tmp_path / "tokens", *moved, "--output", page)
    assert done.returncode == 0 and page.read_text().count("<audio") == 12


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--audio", "nowhere"), "--audio nowhere: "),
        (("--audio", "tests/speech/speech-000001.tar"), "'speech-000001' is among them"),
        (("--tokenizer", "wavlm-tiny-km256"), "tokens of tokenizer"),
        (("--figures", "README.md"), "--figures README.md: it cannot be read as figures"),
        (("--continuations", "docs"), "--continuations docs: it has no KEY.tokens.npy"),
        (("--lm", "docs"), "--lm docs: it has no readable config.json"),
        (("--tokens", "docs"), "--tokens docs: it has no run.json"),
        (("--output", "docs"), "--output docs: it is a folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_used_is_said(made, tmp_path, changed, said):
    given = {"--tokens": made[0].parent.parent / "tokens", "--output": tmp_path / "report.html"}
    given |= {changed[0]: changed[1]}
    done = run_here("report", *(part for pair in given.items() for part in pair))
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "report.html").exists()
