"""Running a job under a fault: in a Ray of its own, or in a Session that several jobs share."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT, job_command
from ray_cluster import JOBS, Cluster, JobProcess, end_ray, environment, ray_processes
from stores import S3, s3_server

from faults.s3_proxy import S3Proxy, s3_proxy

# Seconds that one run of a command may take: longer, and it does not end by itself.
LONGEST_RUN = 240
MOST_RUNS = 6
# A worker that opens a shard of this name dies, while a file `armed` lies beside the hook.
DEADLY = "part-01.tar"
HOOK = f"""
import os, signal, sys
ARMED = os.path.join(os.path.dirname(__file__), "armed")
def hook(event, values):
    if event == "open" and str(values[0]).endswith({DEADLY!r}) and "worker" in sys.argv[0]:
        if os.path.exists(ARMED):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


def write_hook(folder: Path) -> Path:
    """Make a folder for PYTHONPATH in which every Python finds the hook."""
    folder.mkdir()
    Path(folder, "sitecustomize.py").write_text(HOOK)
    return folder


@dataclass(frozen=True)
class Session:
    """A Ray for jobs one after the other, which reach S3 through a proxy.

    folder: its RAY_TMPDIR, and the TMPDIR of its workers. env: of a job that connects to it. jobs:
    where jobs run that nothing happens to. hook: in the PYTHONPATH of its workers.
    """

    folder: str
    env: dict
    jobs: JobProcess
    hook: Path
    s3: S3
    proxy: S3Proxy


@contextmanager
def session(folder: Path) -> Iterator[Session]:
    """Start a Session, and end it. folder: in which it makes one for its logs and the hook."""
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=folder))
    hook = write_hook(folder / "hook")
    with s3_server(folder / "s3.log") as s3, s3_proxy(s3, folder / "proxy.log") as proxy:
        cluster = Cluster({"PYTHONPATH": f"{ROOT}:{hook}", **proxy.env}, dashboard=False)
        try:
            cluster.start()
            env = cluster.job_environment(proxy.env)
            jobs = JobProcess(lambda: env)
            try:
                yield Session(cluster.folder, env, jobs=jobs, hook=hook, s3=s3, proxy=proxy)
            finally:
                jobs.end()
        finally:
            end_ray(cluster.folder)


@dataclass(frozen=True)
class Ended:
    """A run of a command that ended. status: None if it did not end by itself."""

    status: int | None
    errors: str
    killed: bool = False
    left: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """What is wrong with the way in which it ended."""
        found = [f"left over: {name}" for name in self.left]
        if self.status is None:
            return ["it did not end by itself", *found]
        if self.killed:
            return found
        if "Traceback" in self.errors:
            found.append(f"a traceback: {self.errors.strip().splitlines()[-1][:120]}")
        if self.status not in (0, 1):
            found.append(f"exit status {self.status}")
        if self.status == 1 and not any(
            line.startswith(("problem:", "error:")) for line in self.errors.splitlines()
        ):
            found.append("exit status 1 without a line that says why")
        return found


class Command:
    """A job as the leader of a group of processes, whose Ray can be told from others.

    session: None gives it a Ray of its own, which env is for. folder: its TMPDIR.
    """

    def __init__(
        self, job: str, *flags: object, env: dict | None = None, session: Session | None = None
    ) -> None:
        self.folder = tempfile.mkdtemp(prefix="wm-", dir="/tmp")  # short: for Ray's sockets
        self.session, self.log = session, Path(self.folder, "stderr")
        self.ray_folder = session.folder if session else self.folder
        self.before = self._temporary()
        changes = {"TMPDIR": self.folder, **(env or {})}
        if session is None:
            changes = {"RAY_TMPDIR": self.folder, **changes}
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                job_command(job, *flags),
                cwd=ROOT,
                env={**session.env, **changes} if session else environment(changes),
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def _temporary(self) -> set[str]:
        """Temporary folders of the job, and of workers."""
        folders = {self.folder, self.ray_folder}
        return {str(path) for folder in folders for path in Path(folder).glob("wavmill-*")}

    def processes(self, *titles: str) -> dict[int, str]:
        """{process id: title} of its Ray processes; all, or those whose title has one of these."""
        found = ray_processes(self.ray_folder).items()
        return {p: t for p, t in found if not titles or any(part in t for part in titles)}

    def end(self, *, killed: bool = False, tidy: bool = True) -> Ended:
        """Wait until it ends, and see what it left: processes, and files in its TMPDIR.

        tidy: not of a job that lost a worker, which could not remove its temporary folder.
        """
        try:
            status: int | None = self.process.wait(LONGEST_RUN)
        except subprocess.TimeoutExpired:
            status = None
        deadline = time.monotonic() + LONGEST_RUN
        own = ("ray::", "raylet", "gcs_server")
        if killed or self.session:
            # Of a Ray that lost its driver the servers end later than the workers.
            own = ("ray::tokenize", "ray::EncoderActor", "ray::ProgressBoard")
        while (processes := self.processes(*own)) and time.monotonic() < deadline:
            if status is None:
                break
            time.sleep(0.2)
        left = tuple(title[:60] for title in processes.values())
        if tidy and not killed:
            left += tuple(sorted(self._temporary() - self.before))
        errors = self.log.read_text(errors="replace")
        self.close()
        return Ended(status, errors, killed=killed, left=left)

    def close(self) -> None:
        """End what is left of it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        end_ray(self.folder)


@contextmanager
def command(
    job: str, *flags: object, env: dict | None = None, session: Session | None = None
) -> Iterator[Command]:
    """A Command that does not outlive the block."""
    started = Command(job, *flags, env=env, session=session)
    try:
        yield started
    finally:
        started.close()


def run(flags: tuple, session: Session | None = None) -> subprocess.CompletedProcess[str]:
    """Run jobs/tokenize.py in a Session, or in the cluster that all tests share."""
    jobs = session.jobs if session else JOBS
    return jobs.run(job_command("tokenize", *flags), LONGEST_RUN)


def run_until_done(flags: tuple, session: Session, *, most: int = MOST_RUNS) -> list[Ended]:
    """Run jobs/tokenize.py with the same flags until its status is 0 or it has had enough tries.

    Each run in a process of its own, which knows nothing of what the one before has read.
    """
    command, runs = job_command("tokenize", *flags), []
    streams = {"capture_output": True, "text": True}
    while len(runs) < most and not (runs and runs[-1].status == 0):
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=session.env, timeout=LONGEST_RUN, **streams
            )
            runs.append(Ended(done.returncode, done.stderr))
        except subprocess.TimeoutExpired as error:
            errors = error.stderr or b""
            runs.append(Ended(None, errors.decode(errors="replace")))
            break
    return runs
