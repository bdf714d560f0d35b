"""The page of jobs/serve.py in headless Chromium, with a microphone fed from a wav."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from served import causal_voice, language_model, serving
from tars import waves

from jobs.serving import session
from jobs.serving.hearing import Hearing
from jobs.serving.models import ServedModels
from lm.generation import Generator
from tokenizer.tokenizer import Tokenizer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="there is no playwright")

# Counts the samples that the page plays.
SPY = """
window.played = 0;
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...when) {
  window.played += this.buffer.length;
  return start.apply(this, when);
};
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    files = causal_voice(tmp_path_factory.mktemp("encoder"))
    return ServedModels(Tokenizer(files), Generator(language_model(files)), "small")


@pytest.fixture(scope="module")
def served(models):
    with serving(models) as server:
        yield server


@pytest.fixture(scope="module")
def wav(tmp_path_factory) -> Path:
    """An utterance of tests/speech, at a sound card's rate."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(path, soxr.resample(waves()[0], 16_000, 48_000), 48_000)
    return path


@pytest.fixture(scope="module")
def browser(wav):
    flags = [
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={wav}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Opens a page in a browser profile of its own; no page may report an error of its script."""
    problems, contexts = [], []

    def open_page(url: str, microphone: bool = True, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        if microphone:
            context.grant_permissions(["microphone"])
        context.add_init_script(SPY)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.goto(url)
        says(page, "Ready")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def received(monkeypatch) -> list:
    """The samples that the server got, a list a session, in the order the sessions began."""
    sessions: list[list[np.ndarray]] = []

    class Recorded(Hearing):
        def __init__(self, *values):
            super().__init__(*values)
            assert self.resampler is None  # Chromium gives 16 kHz
            sessions.append([])
            self.record = sessions[-1]

        def push(self, samples):
            self.record.append(samples)
            return super().push(samples)

    monkeypatch.setattr(session, "Hearing", Recorded)
    return sessions


def says(page, text: str) -> None:
    sync_api.expect(page.get_by_role("status")).to_contain_text(text, timeout=120_000)


def tokens(page, box: str = "tokens") -> list[int]:
    return [int(text) for text in page.locator(f"#{box} span").all_inner_texts()]


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_two_tabs_speak_and_get_their_tokens_sound_and_continuation(served, opened, received):
    served.settle()
    pages = [opened(served.url) for _ in range(2)]
    for page in pages:
        press(page, "Speak")
        says(page, "tokens come as you do")
    for page in pages:  # while they speak
        page.locator("#tokens span").nth(30).wait_for(timeout=120_000)
    assert len(served.sessions) == 2
    for page in pages:
        press(page, "Stop speaking")
    for page in pages:
        says(page, "tokens of")
    assert len(received) == 2
    for page, pieces in zip(pages, received):
        heard = np.concatenate(pieces)
        assert np.abs(heard).max() > 0.1  # the wav, not silence
        stream = served.models.tokenizer.stream()
        expected = np.concatenate([*map(stream.push, pieces), stream.finish()])
        assert tokens(page) == expected.tolist()
        assert page.evaluate("played") == len(served.models.tokenizer.decode(expected))
        for box in ("#tokens-median", "#sound-last"):
            assert float(page.locator(box).inner_text()) >= 0
    first = pages[0]
    first.evaluate("played = 0")
    first.locator("#temperature").fill("1")
    first.get_by_label("Seconds").fill("2")
    press(first, "Continue")
    says(first, "Continued for 2.0 s")
    assert len(tokens(first, "continued")) == 100
    # From the prompt's end: what the decoder held back of it belongs to the prompt.
    assert first.evaluate("played") == 100 * 320 + 80
    pages[1].close()
    pages[0].close()
    served.settle()


def test_a_file_and_no_audio(served, opened, wav, tmp_path):
    page = opened(served.url)
    page.get_by_label("Choose a file").set_input_files(wav)
    says(page, "tokens of")
    waveform, rate = soundfile.read(wav, dtype="float32")
    assert tokens(page) == served.models.tokenizer.encode(waveform, rate).tolist()
    assert page.evaluate("played") > 16_000
    (tmp_path / "notes.txt").write_text("no audio")
    page.get_by_label("Choose a file").set_input_files(tmp_path / "notes.txt")
    says(page, "It is no audio; choose a file of speech.")
    assert page.get_by_role("button", name="Speak", exact=True).is_enabled()


def test_no_microphone_is_said(served, opened):
    page = opened(served.url, microphone=False)
    press(page, "Speak")
    says(page, "choose a file")
    assert page.get_by_label("Choose a file").is_enabled()


def test_what_a_tokenizer_cannot_do_is_said(opened):
    for name, texts in (
        ("wavlm-tiny-d1024", ["Works on whole utterances: the tokenizer's encoder is not causal"]),
        ("wavlm-tiny-km256", ["Works on whole utterances", "has no vocoder"]),
    ):
        with serving(ServedModels(Tokenizer.from_pretrained(name), None, name)) as served:
            page = opened(served.url)
            shown = page.locator(".notice:visible").all_inner_texts()
            assert all(text in notice for text, notice in zip(texts, shown, strict=True))
            assert page.get_by_role("button", name="Continue", exact=True).count() == 0
            page.close()


def test_the_page_fits_narrow_screens_and_is_reached_by_keyboard(served, opened):
    size = {"width": 400, "height": 800}
    page = opened(served.url, viewport=size, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert {"record", "file", "live", "tokens", "temperature", "top-p", "seconds"} <= set(reached)
    page.locator("#record").focus()
    page.keyboard.press("Enter")
    says(page, "tokens come as you do")


def test_a_server_that_ends_is_said(opened, models):
    with serving(ServedModels(models.tokenizer, None, "small")) as served:
        page = opened(served.url)
    says(page, "The connection has ended")
    assert page.get_by_role("button", name="Speak", exact=True).is_disabled()
