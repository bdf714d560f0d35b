"""A world that is not as it should be: what surrounds a job, and how it stops."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import LONGEST_JOB, ONE_THREAD, ROOT, SPEECH, job_command, run_here, run_job
from faults.checks import Command, command
from ray_cluster import Cluster, end_ray, environment, free_port, ray_processes
from refusals import assert_refused
from stores import LocalStore

from pipeline.cluster import code, connect
from pipeline.cluster.connect import LONGEST_TMPDIR

TOKENIZER = "wavlm-tiny-km256"


def flags(output) -> tuple:
    """Flags of a job on one shard."""
    source = SPEECH / "speech-000002.tar"
    return ("--input", source, "--output", output, "--tokenizer", TOKENIZER, *ONE_THREAD)


@pytest.mark.parametrize(
    "address, says",
    [
        ("127.0.0.1:{port}", "no Ray cluster answers there"),
        ("ray://127.0.0.1:{port}", "no Ray cluster answers there"),
        ("no-such-host.invalid:6379", "no Ray cluster answers there"),
        ("http://127.0.0.1:8265", "no address of a Ray cluster"),
        ("127.0.0.1", "no address of a Ray cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_refused(tmp_path, address, says, monkeypatch):
    """Without asking Ray, which would try again and again for a minute."""
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was asked"))
    address = address.format(port=free_port())
    done = run_here("tokenize", *flags(tmp_path / "out"), env={"RAY_ADDRESS": address})
    assert_refused(done, f"RAY_ADDRESS={address}", says)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_what_listens_there_is_no_ray(tmp_path, answer, monkeypatch):
    """As the dashboard's own port; None: it takes the connection, and says nothing."""
    monkeypatch.setattr(connect, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(100)
                if answer is None:
                    time.sleep(1)
                else:
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = run_here("tokenize", *flags(tmp_path / "out"), env={"RAY_ADDRESS": address})
    assert_refused(done, f"RAY_ADDRESS={address}", "no Ray cluster answers there")


def test_a_folder_too_long_for_sockets_is_refused(tmp_path):
    folder = tmp_path / ("x" * LONGEST_TMPDIR)
    folder.mkdir()
    env = {"RAY_TMPDIR": folder, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        done = run_here("tokenize", *flags(tmp_path / "out"), env=env)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and str(folder) in lines[-1] and "RAY_TMPDIR" in lines[-1]


def test_a_ray_that_does_not_start_in_time_is_one_line(tmp_path, monkeypatch):
    """Ray raises no kind of its own then."""

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    env = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = run_here("tokenize", *flags(tmp_path / "out"), env=env)
    assert done.returncode == 2 and "timed out during startup" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_no_shared_memory_is_refused_and_little_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(connect, "SHARED_MEMORY", str(tmp_path / "shm"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = run_here("tokenize", *flags(tmp_path / "out"), env={})
    assert_refused(done, str(tmp_path / "shm"), "there is no shared memory")
    monkeypatch.setattr(connect, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(connect, "LEAST_SHARED", 1 << 60)
    assert 0 < connect._store_bytes() < 1 << 60
    assert "Ray keeps on disk what its processes exchange" in capsys.readouterr().err


def test_an_output_inside_its_input_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes((SPEECH / "speech-000002.tar").read_bytes())
    place = ("--input", tmp_path, "--output", tmp_path / "out", "--tokenizer", TOKENIZER)
    assert_refused(run_here("tokenize", *place), "--output", "a later run would read it")
    assert not (tmp_path / "out").exists()


def test_other_code_is_noticed(tmp_path, monkeypatch):
    expected = code.fingerprint()
    code.check_code(expected)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/x.py").write_text("x = 1\n")
    (tmp_path / "soxr.py").write_text("# another\n")
    monkeypatch.delitem(sys.modules, "soxr", raising=False)  # or that one would be found
    for change, says in (
        (lambda: monkeypatch.setattr(code, "PROJECT", tmp_path), "wavmill's code"),
        (lambda: monkeypatch.syspath_prepend(tmp_path), "soxr 1"),
        (lambda: monkeypatch.setitem(sys.modules, "av", None), "av not installed, not "),
    ):
        change()
        code.fingerprint.cache_clear()
        try:
            with pytest.raises(code.OtherCode, match=f"is not the driver's: .*{says}"):
                code.check_code(expected)
        finally:
            code.fingerprint.cache_clear()


@pytest.mark.slow
def test_a_node_with_another_version_of_a_package_or_without_it_is_named(tmp_path):
    (tmp_path / "soxr.py").write_text("# another\n")
    cluster = Cluster({"PYTHONPATH": ROOT}, dashboard=False)
    ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    second = [f"--{name}={free_port()}" for name in ports]
    second += [f"--address=127.0.0.1:{cluster.port}", "--node-ip-address=127.0.0.1"]
    try:
        # Without cores of its own: encoders can only be on the other node.
        cluster.start(**{"num-cpus": 0})
        cluster.ray_start(*second, "--num-cpus=2", env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
        env = {**cluster.env, "RAY_ADDRESS": f"127.0.0.1:{cluster.port}"}
        source = ("--input", SPEECH, "--output", tmp_path / "out")
        other = run_job("tokenize", *source, "--tokenizer", TOKENIZER, env=env)
        (tmp_path / "soxr.py").write_text("raise ModuleNotFoundError('No module named soxr')\n")
        lacking = run_job("ingest", "--input", SPEECH, "--output", tmp_path / "tars", env=env)
    finally:
        end_ray(cluster.folder)
    for done, says in ((other, "is not the driver's: soxr"), (lacking, "No module named soxr")):
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 2, done.stderr
        assert last.startswith("error: a node of the cluster cannot be used: "), done.stderr
        assert says in last, done.stderr
    assert not list(tmp_path.glob("*/reports/*"))


@pytest.mark.slow
def test_a_foreign_pipeline_and_a_long_tmpdir(tmp_path):
    """A job begun in a folder with packages of the same names, where TMPDIR is as SLURM's."""
    for name in ("pipeline", "tokenizer", "jobs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('another program')\n")
    scratch = tmp_path / "scratch/slurm/job.123456789/user/temporary-files"
    scratch.mkdir(parents=True)
    assert len(str(scratch)) > LONGEST_TMPDIR
    first, *rest = job_command("tokenize", *flags(tmp_path / "out"))
    done = subprocess.run(
        [first, str(ROOT / rest[0]), *rest[1:]],
        cwd=tmp_path,
        env=environment({"TMPDIR": scratch, "RAY_TMPDIR": None}),
        timeout=LONGEST_JOB,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not list(scratch.iterdir())
    store = LocalStore(tmp_path / "out")
    assert {"shards/speech-000002.tar", "reports/speech-000002.parquet"} <= set(store.state())


def listeners(folder: str) -> dict[str, set[str]]:
    """{address: titles of the processes of a Ray that listen there}; addresses are hexadecimal."""
    found: dict[str, set[str]] = {}
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                sockets[f"socket:[{fields[9]}]"] = fields[1].partition(":")[0]
    for process, title in ray_processes(folder).items():
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()]
        except OSError:
            continue  # it has ended
        for link in links:
            if link in sockets:
                found.setdefault(sockets[link], set()).add(title[:80])
    return found


# 127.0.0.1 and ::ffff:127.0.0.1, as /proc/net has them.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "encoding"])
def test_sigterm_stops_a_job_and_ray_listens_to_this_machine_alone(tmp_path, moment):
    (tmp_path / "in").mkdir()
    for number in range(30):  # more than is done before the signal comes, however late it is
        (tmp_path / f"in/{number:02d}.tar").symlink_to(SPEECH / "speech-000000.tar")
    place = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--tokenizer", TOKENIZER)
    with command("tokenize", *place, *ONE_THREAD) as job:
        _wait_until(job, lambda: "starting Ray" in job.log.read_text())
        if moment == "encoding":
            _wait_until(job, lambda: job.processes("ray::EncoderActor", "ray::tokenize"))
            found = listeners(job.folder)
            assert found and set(found) <= LOOPBACK, found
        os.kill(job.process.pid, signal.SIGTERM)
        ended = job.end()
    assert ended.status == 143, ended.errors
    assert "interrupted; run the same command again" in ended.errors.splitlines()[-1]
    assert "Traceback" not in ended.errors and "*** SIGTERM" not in ended.errors
    assert not ended.left


def _wait_until(job: Command, reached) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert job.process.poll() is None and time.monotonic() < deadline, job.log.read_text()
        time.sleep(0.05)
