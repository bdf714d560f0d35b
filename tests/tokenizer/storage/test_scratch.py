"""Temporary folders: gone after a kill as well, and never taken from who uses them."""

import signal
import subprocess
import sys
import tempfile

import pytest
from ray_cluster import ROOT

from tokenizer.storage.scratch import scratch_folder

HOLD = """
import sys, time
from tokenizer.storage.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "shard.tar").write_bytes(b"half a shard")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def tmpdir(tmp_path, monkeypatch):
    """This process's TMPDIR, and that of those it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmpdir):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    others = [subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, **pipes) for _ in range(2)]
    folders = [other.stdout.readline().strip() for other in others]
    (tmpdir / "wavmill-of-somebody").mkdir()
    others[0].send_signal(signal.SIGKILL)
    others[0].wait()
    assert len(list(tmpdir.iterdir())) == 3
    with scratch_folder() as mine, scratch_folder() as second:
        there = {str(path) for path in tmpdir.iterdir()}
        assert there == {folders[1], str(mine), str(second), str(tmpdir / "wavmill-of-somebody")}
    others[1].communicate("")
    assert [path.name for path in tmpdir.iterdir()] == ["wavmill-of-somebody"]
