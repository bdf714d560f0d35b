"""`wavmill`, --help of every job, and how a job ends: exit status and what it prints."""

import os
import re
import resource
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
from conftest import ROOT

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("[a-z]*.py"))
HEAVY = ("torch", "ray", "transformers", "faiss")
# Runs a job as a script does, and says which heavy modules that imported.
HELP = """
import runpy, sys
sys.argv = [sys.argv[1], *sys.argv[2:], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Run this Python in the repository's root, with text."""
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run([sys.executable, *arguments], **options)


def wavmill(*arguments: str) -> subprocess.CompletedProcess:
    """The console script, as installed."""
    return python("-c", "from jobs.cli.main import main; main()", *arguments)


def command_lines() -> list[tuple[str, ...]]:
    return [(job,) for job in JOBS] + [("evaluate", "tokens"), ("evaluate", "lm")]


@pytest.mark.parametrize("job", command_lines(), ids=" ".join)
def test_help_imports_nothing_heavy_and_its_example_has_existing_flags(job):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("-c", HELP.format(heavy=HEAVY), f"jobs/{job[0]}.py", *job[1:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["imported:"]
    # Of the processor: how busy the machine is does not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    text, _, example = done.stdout.partition("\nexample:\n")
    assert text.startswith(f"usage: {' '.join((job[0] + '.py', *job[1:]))} ")
    lines = example.strip().splitlines()
    assert lines and all(line.strip().startswith("python jobs/") for line in lines)
    if job == ("evaluate",):
        return  # its example is of a command of its own
    for line in lines:
        if f"jobs/{job[0]}.py" in line:
            for flag in re.findall(r"--[a-z][a-z-]*", line):
                assert re.search(rf"^ +{flag}\b", text, re.M), flag


def test_wavmill_lists_every_job_in_one_line():
    done = wavmill("--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(re.findall(r"^  ([a-z][a-z-]*)  +(\S.*)$", done.stdout, re.M))
    assert list(listed) == [job.replace("_", "-") for job in JOBS]
    assert all(about.endswith(".") for about in listed.values())
    assert wavmill().stdout == done.stdout
    assert wavmill("--version").stdout == f"wavmill {version('wavmill')}\n"


def test_wavmill_runs_a_job_under_its_name():
    for name in ("train-tokenizer", "train_tokenizer"):
        done = wavmill(name, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: wavmill train-tokenizer ")
    assert "example:\n  wavmill tokenize --input" in wavmill("tokenize", "--help").stdout
    for arguments in (("tokenise",), ("--tokenize",), ("tokenize", "--inputs", "x"), ("cli",)):
        done = wavmill(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")


def test_an_error_of_a_library_names_the_flag(tmp_path):
    (tmp_path / "units.jsonl").write_text('{"key": "a", "units": [1]}')
    flags = ("--input", str(tmp_path), "--output", str(tmp_path / "out"))
    done = python("jobs/import_tokens.py", *flags, "--codebook-size", "1048577")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --codebook-size 1048577: it is over 1,048,576")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_missing_extra_is_named_in_one_line():
    code = "import sys; sys.modules['ray'] = None; sys.argv[1:1] = ['tokenize']; "
    code += "from jobs.cli.main import main; main()"
    speech = str(ROOT / "tests/speech")
    flags = ("--input", speech, "--tokenizer", "wavlm-tiny-km256", "--output", "out")
    done = python("-c", code, *flags)
    expected = "error: ray is not installed; pip install 'wavmill[pipeline]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from jobs.cli.errors import run\nrun(lambda: print('x' * 100))"
    with os.fdopen(writer, "wb") as out:
        streams = {"capture_output": False, "stdout": out, "stderr": subprocess.PIPE}
        done = python("-c", code, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}, **streams)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_is_one_line():
    code = "import time; from jobs.cli.errors import run\n"
    code += "def main():\n    print('begun', flush=True)\n    time.sleep(60)\nrun(main)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=-1, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "\ninterrupted; run the same command again to continue\n"


def test_a_second_ctrl_c_ends_a_job_whose_library_swallowed_the_first():
    code = """
import threading, time
from jobs.cli.errors import run

def main():
    lock = threading.Lock()
    lock.acquire()
    try:
        print("begun", flush=True)  # the interrupt may come before sleep
        time.sleep(60)
    except KeyboardInterrupt:
        print("swallowed", flush=True)
    while True:
        lock.acquire(timeout=60)

run(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=-1, text=True
    )
    for line in ("begun\n", "swallowed\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
