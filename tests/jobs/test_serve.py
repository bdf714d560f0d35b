"""The socket of jobs/serve.py without a browser, and what the job refuses."""

import gc
import io
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import weakref

import numpy as np
import pytest
import soundfile
from causal_models import noise
from conftest import ROOT, run_here
from refusals import assert_refused
from served import causal_voice, language_model, serving, tab
from websockets.exceptions import InvalidStatus

from jobs.serving.models import ServedModels
from lm.files import save_lm
from lm.generation import Generator, Sampling
from tokenizer.tokenizer import Tokenizer

SECONDS_2 = 32_000 + 133


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return causal_voice(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def served(files):
    """A causal tokenizer and a language model."""
    models = ServedModels(Tokenizer(files), Generator(language_model(files)), "small")
    with serving(models) as server:
        yield server


def joined(pieces) -> np.ndarray:
    return np.concatenate([np.empty(0, np.float32), *pieces])


def test_tokens_come_while_someone_speaks_and_are_those_of_the_whole(served):
    tokenizer, wave = served.models.tokenizer, noise(SECONDS_2)
    with tab(served) as one:
        assert one.about["whole"] is None and one.about["lm"]
        one.say("start", sample_rate=16_000)
        one.socket.send(wave[:1360].tobytes())  # a chunk, and the 80 samples past it
        one.until("tokens")
        assert (len(one.tokens[0]), one.ends) == (4, [1360])
        for start in range(1360, len(wave), 320):
            one.socket.send(wave[start : start + 320].tobytes())
        one.say("finish")
        assert one.until("finished")["type"] == "finished"
    expected = tokenizer.encode(wave)
    assert one.tokens[0] == expected.tolist() and one.ends[-1] == 32_080
    np.testing.assert_allclose(joined(one.sound[0]), tokenizer.decode(expected), atol=1e-5)


def test_a_continuation_is_what_the_generator_gives_and_can_be_stopped(served):
    tokenizer, generator = served.models.tokenizer, served.models.generator
    with tab(served) as one:
        one.speak(noise(SECONDS_2), piece=5000)
        one.until("finished")
        prompt = np.array(one.tokens[0])
        one.say("continue", seconds=2, temperature=0.9, top_p=0.8, seed=3)
        assert one.until("continued")["seed"] == 3
        sampling = Sampling(temperature=0.9, top_p=0.8)
        (expected,) = generator.generate([prompt], 100, [3], sampling=sampling)
        assert one.tokens[1] == expected.tolist()
        speech = joined(generator.speak(tokenizer, prompt, 100, seed=3, sampling=sampling))
        assert len(one.sound[1]) > 10
        np.testing.assert_allclose(joined(one.sound[1]), speech, atol=1e-5)
        one.clear()
        one.say("continue", seconds=60, seed=3)
        one.say("stop")
        one.until("continued")
        assert len(one.tokens[1]) < 3000
        for values, says in (
            ({"temperature": -1}, "temperature"),
            ({"top_p": 2}, "top_p"),
            ({"seconds": 1e9}, "up to 60"),
            ({"seed": "x"}, "give a number"),
        ):
            one.say("continue", **values)
            assert says in one.until("continued")["message"]
        # The prompt was prepared once more, and what was prepared of it is not of the next one.
        one.clear()
        one.say("continue", seconds=2, temperature=0.9, top_p=0.8, seed=3)
        one.until("continued")
        assert one.tokens[1] == expected.tolist()
        one.clear()
        one.speak(noise(SECONDS_2 // 2), piece=5000)
        one.until("finished")
        (expected,) = generator.generate([np.array(one.tokens[0])], 50, [4])
        one.say("continue", seconds=1, seed=4)
        one.until("continued")
        assert one.tokens[1] == expected.tolist()


def test_another_sample_rate_and_two_tabs_at_once(served):
    wave = noise(3 * SECONDS_2, seed=9)
    slow = noise(SECONDS_2, seed=5)
    with tab(served) as one, tab(served) as other:
        one.speak(slow)
        other.speak(wave, rate=48_000, piece=960)
        one.until("finished")
        other.until("finished")
        assert one.tokens[0] == served.models.tokenizer.encode(slow).tolist()
        # The resampler's own filter ends a little otherwise chunk by chunk: the count is exact.
        assert len(other.tokens[0]) == len(served.models.tokenizer.encode(wave, 48_000))
        assert len(served.sessions) == 2


def test_a_file_gives_the_jobs_tokens_and_no_audio_is_refused(served):
    wave = noise(SECONDS_2, seed=7)
    flac = io.BytesIO()
    soundfile.write(flac, wave, 16_000, format="FLAC")
    flac.seek(0)
    expected = served.models.tokenizer.encode(soundfile.read(flac, dtype="float32")[0])
    with tab(served) as one:
        one.say("file")
        one.socket.send(flac.getvalue())
        one.until("finished")
        assert one.tokens[0] == expected.tolist() and one.sound[0]
        for content, says in ((b"no audio at all", "it is no audio"), (b"", "choose a file")):
            one.say("file")
            one.socket.send(content)
            assert says in one.until("finished")["message"]
        one.clear()
        one.speak(wave)  # the tab lives on
        one.until("finished")
        assert one.tokens[0] == served.models.tokenizer.encode(wave).tolist()


def test_nonsense_gets_an_answer(served):
    with tab(served) as one:
        for text in ("{", "[]", '{"type": 3}', '{"type": "dance"}'):
            one.socket.send(text)
            assert "means nothing here" in one.until("ready")["message"]
        one.say("continue")
        assert "nothing to go on from" in one.until("continued")["message"]
        for rate in (3, "x", None):
            one.say("start", sample_rate=rate)
            assert one.until("finished")["type"] == "error"
        one.speak(np.array([0.1, np.nan] * 800))
        assert "no number" in one.until("finished")["message"]
        one.speak(noise(300))
        assert "no sound" in one.until("finished")["message"]


def test_a_dropped_connection_leaves_nothing_behind(served):
    served.settle()
    threads = set(threading.enumerate())
    for moment in ("speaking", "continuing"):
        with tab(served) as one:
            one.speak(noise(SECONDS_2))
            one.until("tokens" if moment == "speaking" else "finished")
            if moment == "continuing":
                one.say("continue", seconds=60)
                one.until("tokens")
            (session,) = served.sessions
            left = [weakref.ref(part) for part in (session, session.hearing) if part]
            del session
            one.socket.socket.shutdown(socket.SHUT_RDWR)
        served.settle()
        deadline = time.monotonic() + 120
        while any(part() for part in left) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.05)
        assert not any(part() for part in left)
    # The event loop's helper threads, of which there is a fixed number, stay.
    assert {t.name.partition("_")[0] for t in set(threading.enumerate()) - threads} <= {"asyncio"}


def test_other_sites_get_no_connection(served):
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{served.port + 1}"},
    ):
        with pytest.raises(InvalidStatus, match="403"), tab(served, additional_headers=headers):
            pass
    with tab(served, additional_headers={"Origin": served.url.rstrip("/")}):
        pass
    # A name of another site that was made to lead here.
    for host in (f"evil.example:{served.port}", "[", ""):
        request = urllib.request.Request(served.url, headers={"Host": host})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)


def test_the_page_names_nothing_outside(served):
    page = ROOT / "jobs/serving/page"
    names = sorted(path.name for path in page.iterdir())
    assert "index.html" in names
    for name in names:
        with urllib.request.urlopen(served.url + name) as answer:
            text = answer.read().decode()
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert text == (page / name).read_text()
        assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.]+\.\w+", text)


def test_a_tokenizer_that_works_on_whole_utterances():
    """wavlm-tiny-d1024: neither its encoder nor its vocoder is causal."""
    tokenizer, wave = Tokenizer.from_pretrained("wavlm-tiny-d1024"), noise(SECONDS_2)
    with serving(ServedModels(tokenizer, None, "d1024")) as served, tab(served) as one:
        assert one.about["whole"] == "the tokenizer's encoder is not causal"
        one.speak(wave)
        one.until("finished")
        expected = tokenizer.encode(wave)
        assert one.tokens[0] == expected.tolist() and len(one.ends) == 1
        np.testing.assert_allclose(joined(one.sound[0]), tokenizer.decode(expected), atol=1e-5)
        one.say("continue")
        assert "no language model" in one.until("continued")["message"]


def test_without_a_vocoder_there_are_tokens_and_no_sound():
    models = ServedModels(Tokenizer.from_pretrained("wavlm-tiny-km256"), None, "km256")
    with serving(models) as served, tab(served) as one:
        assert one.about["sound_rate"] is None
        one.speak(noise(SECONDS_2))
        one.until("finished")
        assert one.tokens[0] and not one.sound[0]


def test_the_job_serves_a_model_and_ends_at_ctrl_c(files, tmp_path):
    save_lm(tmp_path / "model", language_model(files), tokenizer=files, made_by={})
    command = [sys.executable, "jobs/serve.py", "--lm", str(tmp_path / "model"), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        try:
            line = process.stdout.readline()
            url = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
            with urllib.request.urlopen(url) as answer:
                assert b"<title>wavmill" in answer.read()
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors, errors


def test_what_the_job_refuses(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_here("serve", "--tokenizer", "wavlm-tiny-km256", "--port", port)
    assert_refused(done, f"--port {port}", "another program listens there")
    usual = ("--tokenizer", "wavlm-tiny-km256", "--port", 0)
    assert_refused(run_here("serve", "--port", 0), "--lm, --tokenizer or both")
    assert_refused(run_here("serve", *usual, "--host", "no-such-host.invalid"), "--host")
    assert_refused(run_here("serve", *usual[:2], "--port", 70_000), "--port 70000")
    assert_refused(run_here("serve", "--tokenizer", "wavlm-tiny", "--port", 0), "--tokenizer")
    assert_refused(run_here("serve", "--lm", tmp_path, "--port", 0), "--lm")
